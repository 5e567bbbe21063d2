"""What the user reads: a run as a table for a terminal, and as plain lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .printable import printable
from .progress import Progress
from .run import Job, Run

TABLE_FROM, BAR_FROM = 72, 100  # columns of a terminal from which there is a table, and a bar in it
MOST_RULES = 8  # rules that are listed by name
LONGEST_NOTE = 24  # characters


def duration(seconds: float) -> str:
    """Seconds as text: `42 s`, `3 min` or `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def summary(run: Run, now: float, dollars: float) -> str:
    """The run in one line: `12 of 60 jobs, about 4 min left, $0.42`."""
    parts = [f"{run.jobs_done()} of {run.jobs_planned()} jobs"]
    left = run.seconds_left(now)
    if left:
        parts.append(f"about {duration(left)} left")
    if dollars:
        parts.append(f"${dollars:.2f}")
    return ", ".join(parts)


def finished_line(run: Run, job: Job, now: float, dollars: float) -> str:
    """The line that a log gets when a job has ended well."""
    return f"done   {job.name} ({duration(now - job.since)}); {summary(run, now, dollars)}"


def rule_counts(run: Run) -> str:
    """Jobs done and planned by rule: `align 3/9   call 0/9   report 0/1`.

    Rules come in the order of Snakemake's job statistics, which is the order of execution. Of more
    than MOST_RULES rules, finished ones are only counted, and those that have begun come first.
    """
    rules = list(run.planned)
    if len(rules) <= MOST_RULES:
        return "   ".join(f"{rule} {run.done[rule]}/{run.planned[rule]}" for rule in rules)
    running = {job.rule for job in list(run.running.values())}
    unfinished = [rule for rule in rules if run.done[rule] < run.planned[rule]]
    unfinished.sort(key=lambda rule: not (run.done[rule] or rule in running))
    parts = [f"{rule} {run.done[rule]}/{run.planned[rule]}" for rule in unfinished[:MOST_RULES]]
    if finished := len(rules) - len(unfinished):
        parts.insert(0, f"{finished} rules done")
    if more := len(unfinished[MOST_RULES:]):
        parts.append(f"{more} more rules")
    return "   ".join(parts)


class Row(NamedTuple):
    """The cells of a running job; a cell is empty where the job reports nothing for it."""

    name: str
    step: str
    bar: str
    note: str
    left: str
    running_for: str


def row(job: Job, progress: Progress | None, now: float) -> Row:
    """A running job with the progress that it last printed."""
    running_for = duration(now - job.since)
    if progress is None:
        return Row(job.name, "", "", "", "", running_for)
    filled = min(10, 10 * progress.done // max(progress.total, 1))
    note = printable(progress.note)
    if len(note) > LONGEST_NOTE:
        note = note[: LONGEST_NOTE - 1] + "…"
    return Row(
        job.name,
        f"{progress.done}/{progress.total}",
        "━" * filled + "╌" * (10 - filled),
        note,
        "" if progress.seconds_left is None else duration(progress.seconds_left),
        running_for,
    )


def table(
    run: Run, now: float, dollars: float, progress_of: Callable[[Job], Progress | None], width: int
) -> Group:
    """Counts by rule, the running jobs, and the summary, for a terminal of `width` columns.

    Numbers are never cut off. Below BAR_FROM columns there is no bar and a job's name is shortened;
    below TABLE_FROM a job's numbers follow under its name.
    """
    rows = [row(job, progress_of(job), now) for job in list(run.running.values())]
    jobs = _as_table(rows, bar=width >= BAR_FROM) if width >= TABLE_FROM else _as_lines(rows)
    above, below = Text(rule_counts(run)), Text(summary(run, now, dollars))
    return Group(above, jobs, below) if rows else Group(above, below)


def _as_table(rows: list[Row], bar: bool) -> Table:
    jobs = Table("running", box=box.SIMPLE_HEAD)  # only this column may shrink
    for head in ("step", *[""] * bar, "note", "left", "for"):
        jobs.add_column(head, justify="right", no_wrap=True)
    for name, step, drawn, *rest in rows:
        short = Text(name, no_wrap=True, overflow="ellipsis")
        jobs.add_row(short, step, *[drawn] * bar, *map(Text, rest))
    return jobs


def _as_lines(rows: list[Row]) -> Group:
    lines = []
    for name, step, _, note, left, running_for in rows:
        cells = [step, note, left and f"{left} left", f"for {running_for}"]
        lines.append(Text(name, no_wrap=True, overflow="ellipsis"))
        lines.append(Text("  " + ", ".join(filter(None, cells))))
    return Group(*lines)
