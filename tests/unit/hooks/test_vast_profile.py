"""What the vast profile and the ledger promise to this project."""

import subprocess
from pathlib import Path

import pytest
import yaml
from snakemake_executor_plugin_vast.money import ledger

from ablation.hooks.runcrate import spent
from ablation.lineage.ledger import ledger_attempts
from ablation.provenance.manifests import StaleInput

ROOT = Path(__file__).resolve().parents[3]
PROFILE = yaml.safe_load((ROOT / "profiles/vast/config.yaml").read_text())


def test_the_image_holds_the_pinned_torch():
    pin = (ROOT / "requirements-torch.txt").read_text().strip()
    version = pin.removeprefix("torch==")
    assert PROFILE["vast-image"].startswith(f"pytorch/pytorch:{version}-cuda")


def test_a_machine_gets_the_locked_packages_and_this_repository(tmp_path):
    """The profile's setup, run where Python only writes down its arguments."""
    python = tmp_path / "bin/python3"
    python.parent.mkdir()
    python.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/told
for last; do :; done
if [ "$2" = venv ]; then mkdir -p $last/bin && cp "$0" $last/bin/python; fi
""")
    python.chmod(0o755)
    (tmp_path / "packages/a-plugin").mkdir(parents=True)
    command = PROFILE["vast-setup"].replace("/opt/snakemake", str(tmp_path / "env"))
    environment = {"PATH": f"{python.parent}:/bin"}
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path, env=environment)
    made, *installed = (tmp_path / "told").read_text().splitlines()
    assert made.startswith("-m venv")
    assert [line.partition("-q ")[2] for line in installed] == [
        "-r requirements-torch.txt",
        "--no-deps --require-hashes -r requirements.txt",
        "--no-deps --no-build-isolation -e .",
        "--no-deps --no-build-isolation -e packages/a-plugin",
    ]


@pytest.fixture
def book(tmp_path):
    return ledger.Ledger(tmp_path / "ledger.jsonl", "r", lambda: 5.0)


@pytest.mark.parametrize("damage", [b'{"what": "end", "lab\n', b"\xff\n", b"3\n"])
def test_trace_and_crate_refuse_a_damaged_ledger(book, damage):
    book.write("rent", label="a", instance=1)
    with open(book.path, "ab") as file:
        file.write(damage)
    book.write("end", label="a", seconds=1.0, dollars=2.0)
    for read in (spent, lambda path: ledger_attempts([path])):
        with pytest.raises((ValueError, StaleInput), match=r"ledger\.jsonl, line 2"):
            read(book.path)


def test_trace_and_crate_leave_out_a_line_that_was_cut_off(book):
    attempt = {"attempt": "r-1", "job": "j", "label": "a", "dph": 1.0, "seconds": 1.0}
    book.write("attempt", **attempt, wasted=0.0, why="done")
    book.write("end", label="a", seconds=1.0, dollars=2.0)
    with open(book.path, "a") as file:
        file.write('{"what": "end", "dollars": 9')
    with pytest.warns(UserWarning, match="cut off"):
        assert spent(book.path) == 2.0
    with pytest.warns(UserWarning, match="cut off"):
        assert list(ledger_attempts([book.path])) == ["r-1"]
