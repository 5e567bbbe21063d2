"""Read the records, copy the workflow, write the crate."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import yaml

from ablation.atomic import atomic_path
from ablation.lineage import ledger_attempts
from ablation.machine import git_state
from ablation.provenance import WORKFLOW_COPY, sha256_file, visible_files, write_json

from .crate import Facts, build
from .graph import DESCRIPTOR
from .runs import File, Job, read_run, spent

HOME = "results"
COPIED = (  # what the results were made with, and what tells how
    "Snakefile", "rules", "workflow", "src", "config", "resources", "environment.yml",
    "pyproject.toml", "requirements-torch.txt", "requirements.txt", "README.md", "LICENSE",
    "CITATION.cff",
)  # fmt: skip


def write_crate(
    study: Mapping,
    jobs: Iterable[Job],
    targets: Sequence[str],
    ledger: Path,
    agent: str | None = None,
) -> Path:
    """Write results/ro-crate-metadata.json and the copy of the workflow beside it.

    Runs in the folder in which Snakemake runs. `study` is the resolved configuration. Raises
    StaleInput where results are not those of the configuration and code that stand here.
    """
    attempts = ledger_attempts([ledger] if ledger.is_file() else [])
    runs = [read_run(job, HOME, attempts) for job in jobs]
    code = git_state()
    facts = Facts(
        study=study["study"],
        parameters=flat(study),
        targets=targets,
        workflow=copy_workflow(),
        snakemake=metadata.version("snakemake"),
        home=HOME,
        citation=read_citation(),
        commit=code["git_hash"],
        dirty=code["git_dirty"],
        agent=agent,
        dollars=spent(ledger),
    )
    path = Path(HOME, DESCRIPTOR)
    write_json(path, build(runs, facts))
    return path


def copy_workflow() -> dict[str, File]:
    """Copy the workflow into the crate. Returns {path: its copy, relative to the crate}."""
    home, found = Path(HOME, WORKFLOW_COPY), {}
    with atomic_path(home) as scratch:
        scratch.mkdir()
        for path in source_files():
            copy = scratch / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            name = f"{WORKFLOW_COPY}/{path}"
            found[path] = File(name, sha256_file(copy), os.path.getsize(copy))
    return found


def source_files() -> list[str]:
    found = []
    for name in filter(os.path.exists, COPIED):
        below = visible_files(name) if os.path.isdir(name) else [Path(name)]
        found += [path.as_posix() for path in below if "__pycache__" not in path.parts]
    return found


def read_citation() -> dict:
    path = Path("CITATION.cff")
    return yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}


def flat(value: Mapping, *path: str) -> dict[str, object]:
    """{"a": {"b": 1}} as {"a.b": 1}; lists and empty mappings stay whole."""
    found = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            found |= flat(inner, *path, str(key))
        else:
            found[".".join((*path, str(key)))] = inner
    return found
