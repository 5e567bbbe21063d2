"""Promises of the line of progress while packages are installed."""

import subprocess
import sys
from pathlib import Path

import pytest

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
