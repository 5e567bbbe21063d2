"""Promises of distributions: versions, changelogs, continuous integration."""

import re
import runpy
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[3]
PLUGINS = sorted(file.parent for file in ROOT.glob("packages/*/pyproject.toml"))
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
PYTHONS = ["3.11", "3.12", "3.13"]


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def released(folder):
    """{version: date or None} of a changelog in the form of Keep a Changelog."""
    heads = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (folder / "CHANGELOG.md").read_text(), re.M)
    return {version: date.fromisoformat(day) if day else None for version, day in heads}


def test_every_dependency_of_the_distributions_is_pinned_or_in_this_repository():
    """Then `pip install -e .` in a pinned environment installs no other package."""
    texts = [(ROOT / f"requirements{more}.txt").read_text() for more in ("", "-torch")]
    pinned = set(re.findall(r"^([\w.-]+)==", "\n".join(texts), re.M))
    ours = {project(folder)["name"] for folder in PLUGINS}
    for folder in (ROOT, *PLUGINS):
        needed = {Requirement(line).name.lower() for line in project(folder)["dependencies"]}
        assert needed <= pinned | ours, folder


def test_versions_agree():
    version = project(ROOT)["version"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == version
    assert released(ROOT)[version] == date.fromisoformat(str(cited["date-released"]))


@pytest.mark.parametrize("folder", [ROOT, *PLUGINS], ids=lambda folder: folder.name)
def test_the_changelog_lists_versions_newest_first(folder):
    versions = released(folder)
    newest = next(version for version in versions if version != "Unreleased")
    assert newest == project(folder)["version"]
    assert list(versions)[0] == "Unreleased" and versions["Unreleased"] is None
    days = [day for version, day in versions.items() if version != "Unreleased"]
    assert days == sorted(days, reverse=True)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_are_pinned_and_may_only_read(file):
    workflow = yaml.safe_load(file.read_text())
    assert workflow[True] and workflow["jobs"]  # YAML 1.1 reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"} and workflow["concurrency"]["group"]
    used = re.findall(r"uses: (.*)", file.read_text())
    assert used and all(re.fullmatch(r"[\w./-]+@v\d+(\.\d+)*", action) for action in used)


def test_tests_run_on_every_supported_version_of_python():
    assert {file.name for file in WORKFLOWS} == {
        *("build.yml", "images.yml", "pages.yml", "test.yml")
    }
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    commands = [step.get("run", "") for step in job["steps"]]
    assert any("make PYTHON=python${{ matrix.python }} lint test" in line for line in commands)
    for folder in (ROOT, *PLUGINS):
        supported = SpecifierSet(project(folder)["requires-python"])
        assert all(python in supported for python in PYTHONS) and "3.10" not in supported


def test_every_distribution_is_built():
    workflow = (ROOT / ".github/workflows/build.yml").read_text()
    assert "for folder in . packages/*/" in workflow


def test_hooks_before_a_commit_use_the_tools_of_the_environment():
    """So a commit is checked by the versions that `make lint` uses, without a second pin."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in hooks["repos"] for hook in repo["hooks"]]
    assert all(repo["repo"] == "local" for repo in hooks["repos"])
    assert all(entry.startswith((".venv/bin/", "make ")) for entry in entries)
    text = (ROOT / "Makefile").read_text()
    for tool in ("ruff check", "ruff format", "snakefmt"):
        assert any(f".venv/bin/{tool}" in entry for entry in entries) and f"/{tool}" in text


def test_what_the_wheel_carries_is_here_and_holds_what_init_and_the_links_need():
    from ablation.cli.init import PROFILES
    from ablation.workflow.elsewhere import SHIPPED as LINKED

    names = runpy.run_path(str(ROOT / "tools/wheel.py"))["SHIPPED"]
    assert all((ROOT / name).exists() for name in names)
    needed = ["Snakefile", "rules/common.smk", "workflow/scripts/evaluate.py", *LINKED]
    needed += ["workflow/new_study/Snakefile", "config/default.yaml", "config/example.yaml"]
    needed += [f"profiles/{profile}/config.yaml" for profile in PROFILES]
    for path in needed:
        assert (ROOT / path).exists() and path.partition("/")[0] in names, path
