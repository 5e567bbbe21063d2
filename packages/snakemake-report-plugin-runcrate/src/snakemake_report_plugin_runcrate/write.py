"""From what Snakemake and a hook know to the crate on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from .crate import build
from .files import hashed, is_below, replaced_folder, write_json
from .graph import DESCRIPTOR
from .hooks import File, RunFacts, StaleResult, find_hook
from .runs import WORKFLOW_COPY, Crate, Recorded, Run, iso, read_run


def write_crate(recorded: Recorded, folder: str | None, agent: str | None = None) -> Path:
    """Write ro-crate-metadata.json into `folder`, and copies of workflow files outside of it.

    Runs in the folder in which Snakemake runs. If `folder` is None, the hook's folder or
    `common_folder` takes its place. Raises StaleResult, before anything is written, if a result is
    missing or was not made by the current configuration and code.
    """
    workflow = recorded.workflow
    hook, facts = find_hook(workflow)
    facts = facts or RunFacts(name=f"workflow {recorded.name}")
    outputs = [path for job in recorded.jobs for path in job.outputs]
    home = os.path.relpath(folder or facts.folder or common_folder(outputs))
    runs = [read_run(job, hook.job_facts(job), home) for job in recorded.jobs]
    inputs = _inputs(runs)
    found = recorded.workflow_files
    if facts.workflow_files is not None:
        own = {path: path for path in facts.workflow_files}
        found = {workflow.snakefile: found[workflow.snakefile]} | own
    Path(home).mkdir(parents=True, exist_ok=True)
    copies = _copy(found, Path(home))
    crate = Crate(
        name=facts.name,
        main=workflow.snakefile,
        parameters=flat(workflow.config if facts.parameters is None else facts.parameters),
        targets=workflow.targets,
        workflow=copies,
        inputs=inputs,
        snakemake=metadata.version("snakemake"),
        folder=home,
        published=_published(runs),
        citation=_citation(found),
        commit=facts.commit,
        dirty=facts.dirty,
        agent=agent,
        dollars=facts.dollars,
        energy_joules=facts.energy_joules,
    )
    path = Path(home, DESCRIPTOR)
    write_json(path, build(runs, crate))
    return path


def common_folder(outputs: Iterable[str]) -> str:
    """The deepest folder that holds all of `outputs`; those outside this folder do not count.

    Raises StaleResult if there are none.
    """
    folders = [os.path.dirname(path) or "." for path in outputs if is_below(path, ".")]
    if not folders:
        raise StaleResult(
            "no job of these targets makes a file below the folder in which Snakemake runs. Name "
            "other targets, or a folder for the crate: --report-runcrate-folder"
        )
    return os.path.relpath(os.path.commonpath([os.path.abspath(folder) for folder in folders]))


def _inputs(runs: Iterable[Run]) -> dict[str, File]:
    """Every input file that no job made, with its hash."""
    runs = list(runs)
    made = {file.path for run in runs for file in run.results}
    wanted = sorted({path for run in runs for path in run.job.inputs} - made)
    return {path: hashed(path) for path in wanted if os.path.isfile(path)}


def _copy(found: Mapping[str, str], home: Path) -> dict[str, File]:
    """Copy workflow files from outside the crate. Returns {name: the file, relative to it}."""
    here = {
        name: os.path.relpath(path, home)
        for name, path in found.items()
        if is_below(os.path.relpath(path), str(home))
    }
    copies = {name: path for name, path in found.items() if name not in here}
    if copies:
        folder = home / WORKFLOW_COPY
        if folder.exists() and not (home / DESCRIPTOR).exists():
            raise StaleResult(
                f"{folder} exists and is no part of a crate: the workflow would be copied there. "
                "Rename it, or choose another folder: --report-runcrate-folder"
            )
        with replaced_folder(folder) as scratch:
            for name, path in copies.items():
                copy = scratch / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    names = {name: here.get(name) or f"{WORKFLOW_COPY}/{name}" for name in found}
    hashes = {name: hashed(str(home / path)) for name, path in names.items()}
    return {
        name: File(names[name], file.sha256, file.bytes) for name, file in sorted(hashes.items())
    }


def _citation(found: Mapping[str, str]) -> dict[str, Any]:
    import yaml

    if "CITATION.cff" not in found:
        return {}
    content = yaml.safe_load(Path(found["CITATION.cff"]).read_text("utf-8"))
    return content if isinstance(content, dict) else {}


def _published(runs: Iterable[Run]) -> str:
    """The day on which the last job ended; without records, of the last change of a result."""
    runs = list(runs)
    ends = [run.ended for run in runs if run.ended]
    if not ends:
        files = [file.path for run in runs for file in run.results if os.path.isfile(file.path)]
        ends = [iso(max((os.path.getmtime(path) for path in files), default=0.0))]
    return max(ends)[:10]


def flat(value: Mapping[Any, Any], *path: str) -> dict[str, object]:
    """{"a": {"b": 1}} as {"a.b": 1}; lists and empty mappings stay whole."""
    found: dict[str, object] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            found |= flat(inner, *path, str(key))
        else:
            found[".".join((*path, str(key)))] = inner
    return found
