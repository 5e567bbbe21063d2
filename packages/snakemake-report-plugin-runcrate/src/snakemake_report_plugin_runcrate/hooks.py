"""How a study's own package adds to the crate: the `Hook` protocol and the data it exchanges.

Without a hook, the crate holds what Snakemake itself has recorded. A package that keeps more
records (manifests with hashes, run records, a ledger of attempts) registers a hook in its
pyproject.toml, as a class that is called without arguments:

    [project.entry-points."snakemake_report_plugin_runcrate.hooks"]
    mystudy = "mystudy.crate:MyHook"

Every path in these classes is relative to the folder in which Snakemake runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Protocol

ENTRY_POINTS = "snakemake_report_plugin_runcrate.hooks"


class StaleResult(Exception):
    """A result is missing, has changed, or was not made by the current configuration and code.

    The message names the file and the command that makes it again. No crate is written.
    """


# ---- what Snakemake has recorded, and a hook reads ---------------------------------------------


@dataclass(frozen=True)
class Workflow:
    """A workflow as Snakemake has loaded it."""

    snakefile: str  # the main one
    config: Mapping[str, object]
    variables: Mapping[str, object]  # global variables of the Snakefile
    targets: tuple[str, ...]
    ledger: str = ""  # --report-runcrate-ledger


@dataclass(frozen=True)
class Job:
    """A job as Snakemake has planned and recorded it."""

    rule: str
    outputs: tuple[str, ...]
    snakefile: str  # the file in which the rule is written
    description: str = ""  # the rule's docstring
    inputs: tuple[str, ...] = ()
    script: str | None = None  # or a notebook
    command: str | None = None  # the rule's shell command with its placeholders, or its wrapper
    wildcards: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, object] = field(default_factory=dict)
    environment: str | None = None  # the rule's conda environment file
    container: str | None = None  # the address of its container image
    temporary: frozenset[str] = frozenset()  # outputs that Snakemake removes: temp() and pipe()
    times: tuple[float, float] | None = None  # start and end, in seconds since 1970
    outdated: str | None = None  # why Snakemake would run the job again; None: it would not

    @property
    def name(self) -> str:
        return " ".join([self.rule, *(f"{k}={v}" for k, v in sorted(self.wildcards.items()))])


# ---- what a hook adds --------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file as it was when its hash was taken."""

    path: str
    sha256: str | None = None
    bytes: int | None = None
    here: bool = True  # the file is still in its place


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job, as an executor has recorded it."""

    name: str  # unique in the workflow
    error: str | None = None  # why the attempt failed; None: it succeeded
    seconds: float | None = None
    dollars: float | None = None
    ended: float | None = None  # seconds since 1970


@dataclass(frozen=True)
class Machine:
    host: str
    description: str  # its processors, accelerators and operating system, in one line


@dataclass(frozen=True)
class Reference:
    """Something that a job used and that is no file: a model at a commit, a git commit."""

    name: str
    version: str
    url: str | None = None


@dataclass(frozen=True)
class RunFacts:
    """Facts about the whole run that a hook provides."""

    name: str  # of the study, in the titles of the crate
    folder: str | None = None  # of the crate, if --report-runcrate-folder does not say
    parameters: Mapping[str, object] | None = None  # may be nested; None: the workflow's config
    workflow_files: Sequence[str] | None = None  # None: the files that Snakemake has read
    commit: str | None = None  # of the workflow files
    dirty: bool | None = None  # they differ from that commit
    dollars: float | None = None  # of everything that was paid for
    energy_joules: float | None = None  # of all jobs; None: the sum of those of the jobs


@dataclass(frozen=True)
class JobFacts:
    """Facts about one job; the hook that provides them has checked that they are current."""

    files: Mapping[str, File] = field(default_factory=dict)  # {path: outputs and further inputs}
    started: str | None = None  # ISO 8601 with a time zone; None: as Snakemake recorded
    ended: str | None = None
    seconds: float | None = None
    energy_joules: float | None = None
    machines: Sequence[Machine] = ()
    attempts: Sequence[Attempt] = ()  # failed ones first, the successful one last
    packages: Mapping[str, str] = field(default_factory=dict)  # {Python package: version}
    references: Sequence[Reference] = ()
    params: Mapping[str, object] | None = None  # None: the job's own


class Hook(Protocol):
    """What a study's package implements."""

    def run_facts(self, workflow: Workflow) -> RunFacts | None:
        """Return facts about the whole run, or None if `workflow` is not this hook's own.

        The method is called first, also for workflows that the hook does not know, and must not
        fail for them.
        """

    def job_facts(self, job: Job) -> JobFacts | None:
        """Return facts about a job of the hook's own workflow, or None if there are none.

        Raises StaleResult if its results were not made by the current configuration and code.
        """


class NoHook:
    """The hook of a workflow that has none."""

    def run_facts(self, workflow: Workflow) -> RunFacts | None:
        return None

    def job_facts(self, job: Job) -> JobFacts | None:
        return None


def find_hook(workflow: Workflow) -> tuple[Hook, RunFacts | None]:
    """Return the first installed hook, by name, whose own workflow this is, with its facts."""
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        hook: Hook = point.load()()
        facts = hook.run_facts(workflow)
        if facts is not None:
            return hook, facts
    return NoHook(), None
