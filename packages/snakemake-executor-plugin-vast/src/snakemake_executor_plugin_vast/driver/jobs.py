"""Turns Snakemake's jobs into tasks: which files go to the machine, and which come back."""

from __future__ import annotations

from typing import Any

from ..market.protocol import Requirements
from .task import Task


def task_of(job: Any, command: str, environment: dict[str, str], dag: Any) -> Task:
    """The task of a job or a group of jobs. Snakemake itself transfers files in a bucket."""
    jobs = jobs_of(job)
    reports = [path for j in jobs for path in [*j.log, j.benchmark] if path]
    extras = [str(path) for path in reports if not path.is_storage]
    made = [str(path) for j in jobs for path in j.output if not path.is_storage]
    states = [str(j.params.get("state")) for j in jobs if j.params.get("state")]
    return Task(
        name=f"{job.name} ({job.jobid})",
        command=command,
        environment=environment,
        inputs=[str(path) for path in job.input if not path.is_storage],
        outputs=returned_outputs(jobs, dag),
        extras=extras,
        remove=[*made, *extras],
        requirements=Requirements(),
        states=list(dict.fromkeys(states)),
    )


def jobs_of(job: Any) -> list[Any]:
    """The jobs of a group, or the job itself."""
    return list(job.jobs) if job.is_group() else [job]


def forget_bucket_folders(job: Any, dag: Any) -> None:
    """Forget that the job's output folders were not in the bucket before it ran.

    snakemake-storage-plugin-s3 0.3.6 checks once whether a path is a folder and caches the answer.
    That was before the job ran on a machine, so the output would be missing.
    """
    for j in jobs_of(job):
        read = (path for paths in dag.depending[j].values() for path in paths)
        for path in (*j.output, *read):
            if path.is_storage and hasattr(path.storage_object, "_is_dir"):
                path.storage_object._is_dir = None


def returned_outputs(jobs: list[Any], dag: Any) -> list[str]:
    """The outputs that must be copied to this computer.

    All except those in a bucket, and except those that `temp()` marks and only jobs of the same
    group read. Snakemake expects the same ones.
    """

    def needed(job: Any, path: Any) -> bool:
        return (
            len(jobs) == 1
            or not path.is_temp
            or path in dag.targetfiles
            or any(path in files for j, files in dag.depending[job].items() if j not in jobs)
        )

    made = ((job, path) for job in jobs for path in job.output)
    return [str(path) for job, path in made if not path.is_storage and needed(job, path)]
