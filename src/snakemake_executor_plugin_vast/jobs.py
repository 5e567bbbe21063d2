"""From Snakemake's jobs to tasks: which files travel, which stay."""

from __future__ import annotations

from .offers import Wish
from .work import Task


def task_of(job, command: str, environment: dict[str, str], dag) -> Task:
    """A job or a group of jobs, in plain values."""
    jobs = list(job.jobs) if job.is_group() else [job]
    benchmarks = [str(j.benchmark) for j in jobs if j.benchmark]
    logs = [str(path) for j in jobs for path in j.log]
    made = [str(path) for j in jobs for path in j.output if not path.is_storage]
    states = [str(j.params.get("state")) for j in jobs if j.params.get("state")]
    return Task(
        name=f"{job.name} ({job.jobid})",
        command=command,
        environment=environment,
        inputs=[str(path) for path in job.input if not path.is_storage],
        outputs=outputs_home(jobs, dag),
        extras=[*logs, *benchmarks],
        remove=[*made, *logs, *benchmarks],
        wish=Wish(),
        states=list(dict.fromkeys(states)),
    )


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
