"""What Snakemake has planned and recorded, as plain data; no other module uses its objects."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .hooks import Job, Workflow
from .runs import Recorded

TOLD_BY = ("CITATION.cff", "LICENSE", "README.md", "environment.yml", "environment.yaml")
REMOVED = ("temp", "pipe", "service")  # flags of outputs that do not stay


def read_workflow(dag: Any, job_records: Iterable[Any], ledger: str = "") -> Recorded:
    """Return a workflow and its jobs, from what Snakemake hands to a reporter."""
    sources = _Sources(dag.workflow.sourcecache, next(dag.workflow.included))
    for source in dag.workflow.included:
        sources.add(source)
    jobs = list(_Jobs(dag, job_records, sources))
    for path in [*map(str, dag.workflow.configfiles), *(str(sources.root / n) for n in TOLD_BY)]:
        sources.add(path)
    return Recorded(
        name=sources.root.name,
        workflow=Workflow(
            snakefile=sources.main,
            config=dag.workflow.config,
            variables=dag.workflow.globals,
            targets=_targets(dag),
            ledger=ledger,
        ),
        jobs=jobs,
        workflow_files=dict(sorted(sources.found.items())),
    )


class _Jobs:
    """Every job that makes something, in an order that does not vary."""

    def __init__(self, dag: Any, job_records: Iterable[Any], sources: _Sources) -> None:
        self._dag, self._sources = dag, sources
        self._times = {r.job: (float(r.starttime), float(r.endtime)) for r in job_records}

    def __iter__(self) -> Iterator[Job]:
        for level in self._dag.toposorted():
            for job in sorted(level, key=lambda job: (job.rule.name, str(job.output))):
                if job.output:
                    yield self._job(job)

    def _job(self, job: Any) -> Job:
        rule = job.rule
        needed = self._dag.needrun(job)
        environment = job.conda_env_spec if rule.conda_env else None
        return Job(
            rule=rule.name,
            outputs=tuple(map(_path, job.output)),
            snakefile=self._sources.add(str(rule.snakefile)) or self._sources.main,
            description=" ".join((rule.docstring or "").split()),
            inputs=tuple(sorted(map(_path, job.input))),
            script=self._script(job),
            command=(rule.shellcmd or rule.wrapper or "").strip() or None,
            wildcards={key: str(value) for key, value in job.wildcards_dict.items()},
            params=_params(job.params),
            environment=(
                self._sources.add(environment.file) if environment and environment.is_file else None
            ),
            container=job.container_img_url,
            temporary=frozenset(
                _path(file) for file in job.output if any(flag in file.flags for flag in REMOVED)
            ),
            times=self._times.get(job),
            outdated=" ".join(str(self._dag.reason(job)).split()) if needed else None,
        )

    def _script(self, job: Any) -> str | None:
        """The script or notebook of a job's rule, added to the workflow's files."""
        pattern = job.rule.script or job.rule.notebook
        if not pattern:
            return None
        with suppress(AttributeError, KeyError, IndexError, ValueError):
            path = str(pattern).format(wildcards=job.wildcards, params=job.params)
            return self._sources.add_script(job.rule.basedir.join(path))
        return None


def _targets(dag: Any) -> tuple[str, ...]:
    """Files that were asked for, and the outputs of rules that were."""
    wanted = {_path(file) for file in dag.targetfiles or ()}
    for job in dag.targetjobs:
        wanted |= {_path(file) for file in (job.output or job.input)}
    return tuple(sorted(wanted))


class _Sources:
    """The workflow's own files, each under the name that it gets in the crate."""

    def __init__(self, cache: Any, main: Any) -> None:
        self.found: dict[str, str] = {}
        self._cache = cache
        self._names: dict[str, str] = {}
        uri = str(main.get_path_or_uri(secret_free=True))
        self.root = Path.cwd()
        if "://" not in uri and not Path(uri).absolute().is_relative_to(self.root):
            home = Path(uri).absolute().parent
            self.root = home.parent if home.name == "workflow" else home
        self.main = self.add(main) or ""

    def add(self, source: Any) -> str | None:
        """Add a path or a source file of Snakemake. Returns its name; None if it is missing."""
        text = isinstance(source, str)
        uri = source if text else str(source.get_path_or_uri(secret_free=True))
        if uri not in self._names:
            if "://" not in uri:
                name, path = self._local_name(Path(uri).absolute()), uri
            elif not text:
                host_and_path = uri.partition("://")[2]
                name = "remote/" + re.sub(r"[^\w./@=-]+", "_", host_and_path)
                path = str(self._cache.get_path(source))
            else:
                return None
            if not os.path.isfile(path):
                return None
            self._names[uri], self.found[name] = name, path
        return self._names[uri]

    def add_script(self, source: Any) -> str | None:
        """Add a script, and the files beside it that it may import: those of the same kind."""
        name = self.add(source)
        path = self.found.get(name or "")
        if path and "://" not in str(source.get_path_or_uri(secret_free=True)):
            script = Path(path)
            for other in sorted(script.parent.glob(f"*{script.suffix}") if script.suffix else ()):
                if other.name[0] != ".":
                    self.add(str(other))
        return name

    def _local_name(self, path: Path) -> str:
        path = Path(os.path.normpath(path))
        name = "outside" + path.as_posix()
        for prefix, folder in (("", self.root), ("run/", Path.cwd())):
            if path.is_relative_to(folder):
                name = prefix + path.relative_to(folder).as_posix()
                break
        return name


def _path(file: Any) -> str:
    """A file relative to the folder in which Snakemake runs; one in a storage by its address."""
    if getattr(file, "is_storage", False):  # a target on the command line is plain text
        return str(file.storage_object.query)
    path = os.path.normpath(str(file))
    if os.path.isabs(path) and Path(path).is_relative_to(Path.cwd()):
        return os.path.relpath(path)
    return path


def _params(params: Any) -> dict[str, object]:
    """{name: value} of a job's params; those without a name go by their position."""
    items = enumerate(params._allitems())  # the only way to tell the two kinds apart
    return {name or str(position): value for position, (name, value) in items}
