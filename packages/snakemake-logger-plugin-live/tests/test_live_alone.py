"""The distribution needs nothing but the dependencies that it declares."""

import ast
import os
import pty
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from live_runs import shown, start_snakemake

PACKAGE = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]


def imported(file):
    """The top-level packages that a source file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_only_declared_dependencies_are_imported():
    declared = {re.match(r"[\w-]+", d)[0].replace("-", "_") for d in PROJECT["dependencies"]}
    files = list((PACKAGE / "src").rglob("*.py"))
    assert len(files) > 5
    found = {name for file in files for name in imported(file)}
    assert found - set(sys.stdlib_module_names) == declared


def test_the_version_is_in_the_changelog():
    assert f"## [{PROJECT['version']}]" in (PACKAGE / "CHANGELOG.md").read_text()


@pytest.mark.e2e
def test_the_wheel_runs_in_an_empty_environment(tmp_path):
    """Dependencies and Snakemake come from the package registry that pip is configured for."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    # No --no-build-isolation: the wheel is built as a user's pip would build it.
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, PACKAGE]
    subprocess.run(wheel, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    subprocess.run(
        [python, "-m", "pip", "install", built, "snakemake"], check=True, capture_output=True
    )
    code = "import importlib.util as u; print(u.find_spec('ablation'))"
    assert subprocess.check_output([python, "-c", code], text=True) == "None\n"

    plain, terminal = tmp_path / "plain", tmp_path / "terminal"
    plain.mkdir(), terminal.mkdir()
    run = start_snakemake(plain, python=python, stderr=subprocess.PIPE, text=True)
    text = run.communicate()[1]
    assert run.returncode == 0 and "start  align sample=A" in text and "4 of 4 jobs" in text, text

    ours, theirs = pty.openpty()
    run = start_snakemake(terminal, python=python, stderr=theirs)
    os.close(theirs)
    text = shown(ours)
    assert run.wait() == 0 and "align 2/2" in text and "reads: 40/120" not in text, text
