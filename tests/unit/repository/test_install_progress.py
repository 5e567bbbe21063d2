"""Promises of what is said before a run, and while packages are installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from ablation.config.load import load_study
from ablation.config.merging import read_config_file

ROOT = Path(__file__).resolve().parents[3]
SAID = """Looking in indexes: a
Processing /wheels/torch-2-cp311.whl (from -r requirements-torch-cpu.txt (line 1))
Installing collected packages: torch
Collecting absl-py==2.5.1 (from -r requirements.txt (line 1))
  Downloading absl.whl (1 MB)
Collecting hatchling
Installing collected packages: absl-py, accelerate, aiohttp
"""


def said(text):
    command = [sys.executable, str(ROOT / "tools/install_progress.py")]
    ran = subprocess.run(command, input=text, cwd=ROOT, capture_output=True, text=True, check=True)
    return ran.stderr.splitlines()


def test_packages_are_counted_and_the_long_silence_is_named():
    first, unpacking, last = said(SAID)
    assert "2 GB" in first
    assert unpacking.startswith("  2 of 1") and unpacking.endswith("fetched, unpacking 3")
    assert last == "  all packages are installed"


def test_nothing_is_called_installed_when_pip_ends_early():
    assert "installed" not in "".join(said("".join(SAID.splitlines(keepends=True)[:4])))


# ---- before a run -------------------------------------------------------------------------------


def announced(*arguments, **options):
    """What a dry run of make prints, and the box that the command in it prints."""
    make = ["make", "-n", *arguments, f"PYTHON={sys.executable}"]
    dry = subprocess.run(make, capture_output=True, text=True, check=True, **options).stdout
    command = next(line for line in dry.splitlines() if "announce_run.py" in line)
    ran = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, check=True)
    return dry, ran.stdout


@pytest.mark.parametrize(
    "target, file, megabytes", [("demo", "demo.yaml", 40), ("study", "default.yaml", 104)]
)
def test_a_run_says_first_what_it_does_and_what_it_takes(tmp_path, target, file, megabytes):
    for name in ("config", "tools", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for lock in ("requirements-torch.txt", "requirements-torch-cpu.txt", "requirements-build.txt"):
        (tmp_path / lock).touch()
    (tmp_path / "pyproject.toml").touch()
    dry, box = announced(target, cwd=tmp_path)
    assert dry.count("announce_run.py") == 1
    assert dry.index("announce_run.py") < dry.index("-m venv") < dry.index("bin/snakemake")
    study = load_study(read_config_file(ROOT / "config" / file).values, ROOT / "config")
    assert f" {len(study.recipes) * len(study.seeds)} times" in box
    assert "packages: about 2 GB" in box and f"{megabytes} MB" in box and " minutes" in box
    assert len({len(line) for line in box.splitlines()}) == 1 and f" {study.study} " in box
    assert f"make {target} goes on" in box


def test_a_study_of_one_s_own_has_no_made_up_time(tmp_path):
    (tmp_path / "mine.yaml").write_text("study: mine\n")
    _, box = announced("study", f"STUDY={tmp_path}/mine.yaml", cwd=ROOT)
    assert "minutes" not in box and "MB" not in box and f"STUDY={tmp_path}/mine.yaml" in box
    assert len({len(line) for line in box.splitlines()}) == 1 and " mine " in box


def test_a_terminal_without_better_characters_gets_ascii():
    command = [sys.executable, str(ROOT / "tools/announce_run.py"), "config/demo.yaml", "demo"]
    ran = subprocess.run(command, env={"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert ran.returncode == 0 and ran.stdout.startswith(b"+---")


# ---- while packages are installed ---------------------------------------------------------------


@pytest.mark.parametrize("succeeds", [True, False])
def test_what_pip_warns_of_is_shown_only_when_it_fails(tmp_path, succeeds):
    for name in (
        "requirements.txt",
        "requirements-torch.txt",
        "requirements-torch-cpu.txt",
        "requirements-build.txt",
    ):
        (tmp_path / name).write_text("a==1\n")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "tools").mkdir()
    progress = (ROOT / "tools/install_progress.py").read_text()
    (tmp_path / "tools/install_progress.py").write_text(progress)
    install = f"echo 'WARNING: a remark of pip' >&2; exit {0 if succeeds else 1}\n"
    (tmp_path / "tools/install.sh").write_text(install)
    python = tmp_path / "python"  # makes no environment, which takes seconds
    python.write_text(
        '#!/bin/sh\n[ "$1" = -m ] || exit 0\nmkdir -p .venv/bin\n'
        f"ln -s {sys.executable} .venv/bin/python\n"
    )
    python.chmod(0o755)
    ran = subprocess.run(
        ["make", ".venv/.ready", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (ran.returncode == 0) == succeeds == (tmp_path / ".venv/.ready").exists()
    assert ("WARNING: a remark of pip" in ran.stderr) != succeeds
    assert ("Packages are missing" in ran.stderr) != succeeds
