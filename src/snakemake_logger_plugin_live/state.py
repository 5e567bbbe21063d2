"""What a run has planned, started and finished. Pure: clocks are given."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

# A line of `ablation.progress.Progress`: `3B seed 11: 120/300 (40 %) loss 1.234, 14 s left`
PROGRESS = re.compile(r"(?P<label>.+): (?P<done>\d+)/(?P<total>\d+) \(\d+ %\) (?P<notes>.*)")


@dataclass(frozen=True)
class Job:
    """A job that runs, or ran: `name` is its rule's message, times are in seconds."""

    rule: str
    name: str
    logs: tuple[str, ...]
    since: float


@dataclass
class Run:
    """The jobs of one call of Snakemake."""

    total: Counter = field(default_factory=Counter)  # {rule: jobs}
    done: Counter = field(default_factory=Counter)
    running: dict[int, Job] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)  # {rule: of finished jobs}
    begun: float | None = None

    def planned(self, stats: Mapping[str, int]) -> None:
        """Snakemake's job statistics; its sum counts for nothing."""
        self.total = Counter({rule: n for rule, n in stats.items() if rule != "total"})

    def started(self, jobid: int, rule: str, message: str | None, logs: list, now: float) -> Job:
        self.begun = now if self.begun is None else self.begun
        job = Job(rule, message or rule, tuple(map(str, logs)), now)
        self.running[jobid] = job
        return job

    def finished(self, jobid: int, now: float) -> Job | None:
        """The job, unless nobody has seen it start."""
        job = self.running.pop(jobid, None)
        if job:
            self.done[job.rule] += 1
            self.seconds.setdefault(job.rule, []).append(now - job.since)
        return job

    def failed(self, jobid: int | None) -> None:
        self.running.pop(jobid, None)

    def left(self, now: float) -> float | None:
        """Seconds until all is done, were every job as long as its rule's have been so far.

        A rule that has not finished a job yet counts as the mean of all; None before the first.
        Jobs are taken to run as many at once as they did on average.
        """
        times = [seconds for own in self.seconds.values() for seconds in own]
        if not times or self.begun is None:
            return None
        spent = {job: now - job.since for job in list(self.running.values())}
        overall = sum(times) / len(times)

        def length(rule: str) -> float:
            own = self.seconds.get(rule)
            return sum(own) / len(own) if own else overall

        waiting = self.total - self.done - Counter(job.rule for job in spent)
        work = sum(n * length(rule) for rule, n in waiting.items())
        work += sum(max(0.0, length(job.rule) - seconds) for job, seconds in spent.items())
        at_once = (sum(times) + sum(spent.values())) / max(now - self.begun, 1e-9)
        return work / max(1.0, at_once)
