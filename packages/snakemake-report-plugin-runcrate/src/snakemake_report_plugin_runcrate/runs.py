"""What the crate is written from: jobs with their files and times, and the run as a whole."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .files import hashed, is_below, visible_files
from .graph import DESCRIPTOR
from .hooks import File, Job, JobFacts, StaleResult, Workflow

WORKFLOW_COPY = "_workflow"  # in the crate's folder: workflow files that lie outside of it


@dataclass(frozen=True)
class Recorded:
    """Snakemake's records of a workflow and of the jobs behind its targets."""

    name: str  # of the folder that holds the workflow
    workflow: Workflow
    jobs: Sequence[Job]
    workflow_files: Mapping[str, str]  # {name in the crate: path on this machine}


@dataclass
class Run:
    """A job that has ended well."""

    job: Job
    facts: JobFacts
    results: list[File] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)  # outputs that are directories
    sources: list[File] = field(default_factory=list)  # recorded files outside the crate

    def below(self, folder: str) -> list[File]:
        """The results in one of `folders`."""
        return [file for file in self.results if file.path.startswith(f"{folder}/")]

    @property
    def params(self) -> dict[str, object]:
        return dict(self.job.params if self.facts.params is None else self.facts.params)

    @property
    def started(self) -> str | None:
        return self.facts.started or (iso(self.job.times[0]) if self.job.times else None)

    @property
    def ended(self) -> str | None:
        return self.facts.ended or (iso(self.job.times[1]) if self.job.times else None)

    @property
    def seconds(self) -> float | None:
        if self.facts.seconds is None and self.job.times:
            return round(self.job.times[1] - self.job.times[0], 3)
        return self.facts.seconds


@dataclass(frozen=True)
class Crate:
    """What is true of the whole run, beside its jobs."""

    name: str  # of the run, in titles
    main: str  # the Snakefile, a key of `workflow`
    parameters: Mapping[str, object]  # {dotted key: value}
    targets: Sequence[str]
    workflow: Mapping[str, File]  # {name of a workflow file: the file, relative to the crate}
    inputs: Mapping[str, File]  # {path: an input that no job made}
    snakemake: str  # version
    folder: str
    published: str  # a day, ISO 8601
    citation: Mapping[str, Any] = field(default_factory=dict)  # CITATION.cff
    commit: str | None = None
    dirty: bool | None = None
    agent: str | None = None
    dollars: float | None = None
    energy_joules: float | None = None


def iso(seconds: float) -> str:
    """A moment in seconds since 1970 as ISO 8601 in UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="seconds")


def read_run(job: Job, facts: JobFacts | None, folder: str) -> Run:
    """Return what became of `job`, for the crate in `folder`.

    A file that `facts` name keeps the hash recorded there; any other is hashed. Raises
    StaleResult, naming the file, if an output is missing or, unless `facts` vouch for it, if
    Snakemake would make it again. Temporary outputs may be missing.
    """
    run = Run(job, facts or JobFacts())
    known = run.facts.files
    run.sources = [file for path, file in known.items() if not is_below(path, folder)]
    for path in job.outputs:
        below = {name for name in known if name.startswith(f"{path}/")}
        if os.path.isdir(path):
            below |= {name for name in visible_files(path) if not _is_ours(name, folder)}
            run.folders.append(path)
            run.results += [known.get(name) or hashed(name) for name in sorted(below)]
        else:
            run.results += [_result(name, run) for name in sorted(below or {path})]
    if facts is None and job.outdated:
        raise StaleResult(
            f"{job.outputs[0]} is not current, Snakemake would run {job.name} again "
            f"({job.outdated}). Run the workflow first: snakemake --cores all {job.outputs[0]}"
        )
    return run


def _is_ours(path: str, folder: str) -> bool:
    """The file was written by this reporter, into a directory that is also an output."""
    name = os.path.relpath(path, folder)
    return name == DESCRIPTOR or is_below(name, WORKFLOW_COPY)


def _result(path: str, run: Run) -> File:
    if path in run.facts.files:
        return run.facts.files[path]
    if os.path.isfile(path):
        return hashed(path)
    if "://" in path or path in run.job.temporary:
        return File(path, here=False)
    raise StaleResult(f"{path} is missing. Make it: snakemake --cores all {path}")
