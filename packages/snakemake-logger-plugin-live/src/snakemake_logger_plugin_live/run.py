"""The jobs that a run has planned, started and finished.

Nothing here reads a clock: every method that needs the time takes it as `now`, in seconds.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Job:
    """A job that runs or ran. `name` is shown to the user, `since` is its start in seconds."""

    rule: str
    name: str
    logs: tuple[str, ...]
    since: float


@dataclass
class Run:
    """The jobs of one call of Snakemake. One thread may change a run while others copy it."""

    planned: Counter[str] = field(default_factory=Counter)  # {rule: jobs}, in order of execution
    done: Counter[str] = field(default_factory=Counter)  # {rule: finished jobs}
    running: dict[int, Job] = field(default_factory=dict)  # {job id: job}
    seconds: dict[str, list[float]] = field(default_factory=dict)  # {rule: of finished jobs}
    began: float | None = None
    jobs_in_dag: int = 0
    former: Mapping[str, float] = field(default_factory=dict)  # {rule: seconds a job in other runs}
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def copy(self) -> Run:
        """The run as it is now, unaffected by later changes."""
        with self._lock:
            return Run(
                Counter(self.planned),
                Counter(self.done),
                dict(self.running),
                {rule: list(times) for rule, times in self.seconds.items()},
                self.began,
                self.jobs_in_dag,
                self.former,
            )

    def plan(self, stats: Mapping[str, int]) -> None:
        """Take over Snakemake's job statistics, whose entry `total` is no rule."""
        with self._lock:
            self.planned = Counter({rule: n for rule, n in stats.items() if rule != "total"})

    def extend(self, jobs_in_dag: int) -> None:
        """Note how many jobs Snakemake's graph has now; checkpoints add jobs during a run."""
        self.jobs_in_dag = jobs_in_dag

    def start(self, jobid: int, rule: str, name: str, logs: Iterable[str], now: float) -> Job:
        """Add a running job. A job that starts again replaces its failed attempt."""
        job = Job(rule, name, tuple(map(str, logs)), now)
        with self._lock:
            self.began = now if self.began is None else self.began
            self.running[jobid] = job
            seen = self.done[rule] + sum(other.rule == rule for other in self.running.values())
            self.planned[rule] = max(self.planned[rule], seen)
        return job

    def finish(self, jobid: int, now: float) -> Job | None:
        """Count a running job as done and return it; None for a job that never started."""
        with self._lock:
            job = self.running.pop(jobid, None)
            if job:
                self.done[job.rule] += 1
                self.seconds.setdefault(job.rule, []).append(now - job.since)
        return job

    def fail(self, jobid: int) -> None:
        """Remove a job that failed; Snakemake may start it again."""
        with self._lock:
            self.running.pop(jobid, None)

    def jobs_done(self) -> int:
        """Jobs that have finished."""
        return sum(self.done.values())

    def jobs_planned(self) -> int:
        """Jobs that are known so far, the finished ones included."""
        return max(sum(self.planned.values()), self.jobs_in_dag)

    def seconds_left(self, now: float) -> float | None:
        """Estimated seconds until the last job ends, or None without measured jobs to tell it by.

        Every job is assumed to take as long as its rule's finished jobs took on average, in this
        run or else in former ones in this folder. If a rule has neither, there is no estimate: a
        job of another rule says nothing of it. Jobs are assumed to run side by side as they did so
        far.
        """
        times = [seconds for own in self.seconds.values() for seconds in own]
        if not times or self.began is None:
            return None
        jobs = list(self.running.values())
        waiting = +(self.planned - self.done - Counter(job.rule for job in jobs))
        expected = self.seconds_a_job()
        if {*waiting, *(job.rule for job in jobs)} - expected.keys():
            return None
        work = sum(n * expected[rule] for rule, n in waiting.items())
        work += sum(max(0.0, expected[job.rule] - (now - job.since)) for job in jobs)
        busy = sum(times) + sum(now - job.since for job in jobs)
        side_by_side = busy / max(now - self.began, 1e-9)
        return work / max(1.0, side_by_side)

    def seconds_a_job(self) -> dict[str, float]:
        """{rule: mean seconds of its jobs}, in this run or else in former ones."""
        with self._lock:
            own = {rule: sum(times) / len(times) for rule, times in self.seconds.items()}
        return {**self.former, **own}
