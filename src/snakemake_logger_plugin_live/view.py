"""A run as a table for the terminal, and as plain lines."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .state import PROGRESS, Job, Run

LEDGERS = "ledger/*.jsonl"
TAIL = 4096  # bytes of a log's end that are read
AS_TABLE, WITH_BAR = 72, 100  # columns of a terminal that these take


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2 h 05 min`"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def summary(run: Run, now: float, dollars: float) -> str:
    """`12 of 60 jobs, about 4 min left, $0.42`"""
    parts = [f"{sum(run.done.values())} of {sum(run.total.values())} jobs"]
    left = run.left(now)
    if left:
        parts.append(f"about {duration(left)} left")
    if dollars:
        parts.append(f"${dollars:.2f}")
    return ", ".join(parts)


def line_of(run: Run, job: Job, now: float, dollars: float) -> str:
    """What a log says of a job that has ended well."""
    return f"done   {job.name} ({duration(now - job.since)}); {summary(run, now, dollars)}"


def table(run: Run, now: float, dollars: float, tail: Callable[[Job], str], width: int) -> Group:
    """Stages with their jobs counted, then the running jobs; `tail` gives a job's last line.

    Numbers are never cut off: on `width` columns below WITH_BAR there is no bar and a job's name is
    shortened, below AS_TABLE its numbers stand under its name.
    """
    jobs = list(run.running.values())
    rows = [(job.name, *progress(tail(job)), duration(now - job.since)) for job in jobs]
    shown = _as_table(rows, bar=width >= WITH_BAR) if width >= AS_TABLE else _as_lines(rows)
    return Group(Text(stages(run)), shown, Text(summary(run, now, dollars)))


def _as_table(rows: list[tuple[str, ...]], bar: bool) -> Table:
    jobs = Table("running", box=box.SIMPLE_HEAD)  # may shrink, as the others may not
    for head in ("step", *[""] * bar, "loss", "left", "for"):
        jobs.add_column(head, justify="right", no_wrap=True)
    for name, step, drawn, *rest in rows:
        short = Text(name, no_wrap=True, overflow="ellipsis")
        jobs.add_row(short, step, *[drawn] * bar, *rest)
    return jobs


def _as_lines(rows: list[tuple[str, ...]]) -> Group:
    lines = []
    for name, step, _, loss, left, spent in rows:
        told = [step, loss and f"loss {loss}", left and f"{left} left", f"for {spent}"]
        lines += [Text(name, no_wrap=True, overflow="ellipsis")]
        lines += [Text("  " + ", ".join(filter(None, told)))]
    return Group(*lines)


def stages(run: Run) -> str:
    """`stage3_finetune 3/9   stage4_posteval 0/9   other 2/14`"""
    total, done = Counter(), Counter()
    for rule, jobs in run.total.items():
        stage = rule if rule.startswith("stage") else "other"
        total[stage] += jobs
        done[stage] += run.done[rule]
    order = sorted(total, key=lambda stage: (stage == "other", stage))
    return "   ".join(f"{stage} {done[stage]}/{total[stage]}" for stage in order)


def progress(line: str) -> tuple[str, str, str, str]:
    """Step, bar, loss and time left of a line of progress; empty where it says none."""
    found = PROGRESS.match(line)
    if not found:
        return "", "", "", ""
    done, total = int(found["done"]), int(found["total"])
    filled = 10 * done // max(total, 1)
    notes = dict.fromkeys(("loss", "left"), "")
    for note in found["notes"].split(", "):
        if note.startswith("loss "):
            notes["loss"] = note.removeprefix("loss ")
        elif note.endswith(" s left"):
            notes["left"] = duration(float(note.removesuffix(" s left")))
    return f"{done}/{total}", "━" * filled + "╌" * (10 - filled), notes["loss"], notes["left"]


def last_line(job: Job) -> str:
    """The last line of progress in the job's log; empty where there is none."""
    for log in job.logs:
        try:
            with open(log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        return next((line for line in reversed(lines) if PROGRESS.match(line)), "")
    return ""


def spent(root: Path) -> float:
    """Dollars in the ledgers of the `vast` executor so far; 0 without any that can be read."""
    files = sorted(root.glob(LEDGERS))
    if not files:
        return 0.0

    from snakemake_executor_plugin_vast import ledger

    dollars = 0.0
    for file in files:
        with suppress(OSError, ValueError, KeyError):  # a view must not keep a study from its work
            dollars += ledger.account(ledger.read(file), time.time()).spent
    return dollars
