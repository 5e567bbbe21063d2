"""Promises of apptainer.def that need no build; `make test-image` carries out its steps."""

import re
import subprocess
from pathlib import Path

from tests.support.apptainer import read_definition
from tests.support.dockerfile import read_dockerfile

ROOT = Path(__file__).resolve().parents[3]
# What no run needs: tests, documentation, and what only a clone or another image uses.
NOT_IN_THE_IMAGE = {
    *(
        "tests",
        "docs",
        "mkdocs.yml",
        "benchmarks",
        "results",
        "Makefile",
        "Dockerfile",
        "apptainer.def",
    ),
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LOG.md", "requirements-dev.in"),
    *(
        "requirements-build.in",
        "requirements-dev.txt",
        "requirements-torch.in",
        "requirements.in",
        "gpu",
        "slurm",
        "vast",
        "default",
    ),
    *(".ci", ".dockerignore", ".gitattributes", ".github", ".gitignore", ".pre-commit-config.yaml"),
    *(".snakemake-workflow-catalog.yml",),
}


def test_the_image_holds_what_a_run_needs():
    *copied, target = read_definition(ROOT / "apptainer.def")["files"].split()
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.check_output(listed, cwd=ROOT, text=True).splitlines()
    top = {path.partition("/")[0] for path in tracked} - {".venv"}
    assert set(copied) == top - NOT_IN_THE_IMAGE and target == "/opt/ablation/"


def test_base_and_installation_are_those_of_the_dockerfile():
    definition, steps = (
        read_definition(ROOT / "apptainer.def"),
        read_dockerfile(ROOT / "Dockerfile"),
    )
    base = dict(line.split("=") for line in definition["arguments"].splitlines())["base"]
    assert ("ARG", f"BASE={base}") in steps and definition["From"] == "{{ base }}"
    (installing,) = [text for what, text in steps if what == "RUN" and "venv" in text]
    ours = [line for line in definition["post"].splitlines() if not line.startswith("cd ")]
    assert re.split(r" && ", installing) == ours
