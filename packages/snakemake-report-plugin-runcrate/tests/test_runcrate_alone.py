"""The distribution needs nothing but the dependencies that it declares."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from test_runcrate_workflow import SCRIPT, SNAKEFILE

PACKAGE = Path(__file__).resolve().parent.parent


@pytest.mark.e2e
def test_the_wheel_describes_a_workflow_in_an_empty_environment(tmp_path, crate_findings):
    """Dependencies and Snakemake come from the package registry that pip is configured for."""
    venv.create(tmp_path / "venv", with_pip=True)
    python, home = tmp_path / "venv/bin/python", tmp_path / "study"
    # No --no-build-isolation: the wheel is built as a user's pip would build it.
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, PACKAGE]
    subprocess.run(wheel, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    subprocess.run(
        [python, "-m", "pip", "install", built, "snakemake"], check=True, capture_output=True
    )
    code = "import importlib.util as u; print(u.find_spec('ablation'))"
    assert subprocess.check_output([python, "-c", code], text=True) == "None\n"

    files = {
        "workflow/Snakefile": SNAKEFILE,
        "workflow/scripts/count_words.py": SCRIPT,
        "workflow/scripts/names.py": "def name_of(path):\n    return path.name\n",
        "data/text.txt": "a b\nc\nd e f\n",
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    for options in (["--cores", "1"], ["--reporter", "runcrate"]):
        command = [python, "-m", "snakemake", *options]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    (crate,) = home.rglob("ro-crate-metadata.json")
    entities = {e["@id"]: e for e in json.loads(crate.read_text())["@graph"]}
    assert "summary.txt" in entities
    assert not crate_findings(crate.parent)
