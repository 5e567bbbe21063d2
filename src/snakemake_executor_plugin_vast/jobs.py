"""From Snakemake's jobs to tasks: which files travel, which stay."""

from __future__ import annotations

from .offers import Wish
from .work import Task


def task_of(job, command: str, environment: dict[str, str], dag) -> Task:
    """A job or a group of jobs, in plain values. What lies in a bucket travels without us."""
    jobs = jobs_of(job)
    told = [path for j in jobs for path in [*j.log, j.benchmark] if path]
    extras = [str(path) for path in told if not path.is_storage]
    made = [str(path) for j in jobs for path in j.output if not path.is_storage]
    states = [str(j.params.get("state")) for j in jobs if j.params.get("state")]
    return Task(
        name=f"{job.name} ({job.jobid})",
        command=command,
        environment=environment,
        inputs=[str(path) for path in job.input if not path.is_storage],
        outputs=outputs_home(jobs, dag),
        extras=extras,
        remove=[*made, *extras],
        wish=Wish(),
        states=list(dict.fromkeys(states)),
    )


def jobs_of(job) -> list:
    return list(job.jobs) if job.is_group() else [job]


def look_again(job, dag) -> None:
    """Forget that folders in a bucket were not there before the job made them.

    snakemake-storage-plugin-s3 0.3.6 asks once whether a path is a folder and keeps the answer;
    here it was asked before the job ran elsewhere, so the output would be missing for ever.
    """
    for j in jobs_of(job):
        read = (path for paths in dag.depending[j].values() for path in paths)
        for path in (*j.output, *read):
            if path.is_storage and hasattr(path.storage_object, "_is_dir"):
                path.storage_object._is_dir = None


def outputs_home(jobs: list, dag) -> list[str]:
    """The outputs that must come home.

    All but what lies in a bucket, and but what `temp()` marks for use inside the same group: a
    checkpoint that only its own group reads stays on the machine. Snakemake draws the same line.
    """

    def needed(job, path) -> bool:
        return (
            len(jobs) == 1
            or not path.is_temp
            or path in dag.targetfiles
            or any(path in files for j, files in dag.depending[job].items() if j not in jobs)
        )

    made = ((job, path) for job in jobs for path in job.output)
    return [str(path) for job, path in made if not path.is_storage and needed(job, path)]
