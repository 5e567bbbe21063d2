"""Promises of the line of progress while packages are installed."""

import subprocess
import sys
from pathlib import Path

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
