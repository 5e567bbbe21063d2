"""Promises of `make clean`: it names what it would remove, asks, and removes nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
REMOVED = ("results", "logs", ".snakemake")


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "a checkout"
    (folder / "tools").mkdir(parents=True)
    for name in ("Makefile", "tools/clean.sh"):
        shutil.copy(ROOT / name, folder / name)
    for name in (*REMOVED, "config"):
        (folder / name).mkdir()
        (folder / name / "file").write_bytes(b"x" * 50_000)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").write_text("")
    (folder / "state").symlink_to("../elsewhere")
    return folder


def clean(folder, answer, *arguments):
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "CLEAN", "MFL"))
    }
    return subprocess.run(
        ["make", "clean", *arguments],
        cwd=folder, env=environment, input=answer, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "results\n"])
def test_without_a_yes_nothing_is_removed(checkout, answer):
    before = sorted(checkout.rglob("*"))
    done = clean(checkout, answer)
    assert done.returncode and "Nothing was removed" in done.stderr
    assert sorted(checkout.rglob("*")) == before
    for name in REMOVED:
        assert f"K\t{name}\n" in done.stdout


@pytest.mark.parametrize("answer, arguments", [("y\n", []), ("", ["CLEAN=yes"])])
def test_what_was_named_is_removed_and_nothing_else(checkout, answer, arguments):
    done = clean(checkout, answer, *arguments)
    assert done.returncode == 0, done.stderr
    assert ("Remove them?" in done.stdout) == (not arguments)
    names = {path.name for path in checkout.iterdir()}
    assert names == {"Makefile", "tools", "config"}
    assert (checkout.parent / "elsewhere/kept").is_file()  # behind a link
    assert "nothing to remove" in clean(checkout, "").stdout
