"""The recovery table on a terminal: what was lost, what came back, and what to beware of."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from ablation.names import MACRO, MACROS
from ablation.planning import Plan
from ablation.provenance import command_for, sealed_manifest

LEGEND = (
    "B: base under causal. A: base under the mask. P: after finetuning, under the mask. All on the "
    "same items.\nrecovered: (P - A) / (B - A). In brackets: intervals; how far to trust them: "
    "docs/statistics.md.\ncriteria met: the study's thresholds on P / B and P - A.\n"
    "leaks: train: the recipe was trained under a mask that shows each token its own target. eval: "
    "A and P are\nscored under such a mask: they say how much of the answer was seen, not what the "
    "model can do."
)
WIDTH = 170  # where there is no terminal to ask


# What tells a recovery table from others.
RECOVERY = ("study", "recipe", "seed", "mask", "task", "comparable", "damage", "gain", "recovered")


class NoTable(ValueError):
    """A file is not the table that was asked for; the message says what it is."""


def read_table(file: str | Path, columns: Iterable[str], **how: object) -> pd.DataFrame:
    """A CSV file that has these columns and a row; `how` is pandas'. Raises NoTable."""
    remedy = f"Another file, or make it again: {command_for(file)}"
    if Path(file).suffix != ".csv":
        remedy = "A table of a study is a .csv file"
    if Path(file).is_dir():
        raise NoTable(f"{file} is a folder; one of its tables was expected, recovery.csv for one")
    if not Path(file).is_file():
        raise NoTable(f"{file} was not found. {remedy}")
    try:
        frame = pd.read_csv(file, **how)
    except ValueError as fault:  # empty, ragged, or no text
        raise NoTable(f"{file} is no table: {str(fault).strip()}. {remedy}") from None
    lacking = [name for name in columns if name not in frame]
    if lacking or frame.empty:
        found = f"it has {', '.join(map(repr, frame.columns[:20]))}, {len(frame)} rows"
        what = f"has no column {', '.join(lacking)}" if lacking else "has no rows"
        raise NoTable(f"{file} {what}; {found}. {remedy}")
    return frame


def print_recovery(file: str | Path, seed: str, task: str) -> int:
    """Print the rows of one seed (or `all`) and one task, `macro` or `each`; 1 when there are none.

    `macro` prints that of each protocol. Raises NoTable.
    """
    text = dict.fromkeys(("seed", "recipe", "comparable", "mask", "task"), str)
    frame = read_table(file, RECOVERY, dtype=text)
    rows = frame[frame.seed == seed]
    wanted = MACROS if task == MACRO else [task]
    rows = rows if task == "each" else rows[rows.task.isin(wanted)]
    if rows.empty:
        seeds, tasks = (", ".join(frame[c].unique()) for c in ("seed", "task"))
        print(
            f"{file} has no rows of seed {seed} and task {task}. It has seeds {seeds}; "
            f"tasks {tasks}, or `each`.",
            file=sys.stderr,
        )
        return 1
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    study, masked = frame.study.iloc[0], rows[rows["mask"] != "causal"]
    causal = rows[rows["mask"] == "causal"]
    # B and A know no recipe: what was lost is one line a mask
    lost = masked.drop_duplicates(["mask", "task", "damage", "damage_p"])
    console.print(_table(f"{study}: what was lost", lost, LOST))
    console.print(_table(f"{study}: what came back (seed {seed})", masked, BACK))
    console.print(
        _table(f"{study}: side effect on ordinary, causal use (seed {seed})", causal, SIDE)
    )
    for line in warnings_of(rows):
        console.print(line, style="bold red")
    console.print(_legend(Path(file).parent, study), style="dim")
    return 0


def _legend(home: Path, study: str) -> str:
    """With the confidence of the intervals, where the table's manifest is there to say it."""
    for manifest in (home / "recovery.manifest.json", home / study / "recovery.manifest.json"):
        if manifest.is_file():
            level = sealed_manifest(manifest)["stamp"]["config"]["statistics"]["confidence"]
            return LEGEND.replace("brackets: intervals", f"brackets: {100 * level:g} % intervals")
    return LEGEND


CLAIMS = ("regime", "claim", "value", "low", "high", "p", "verdict")  # of a bridge's claims.csv


def print_claims(file: str | Path) -> int:
    """Print each claim of a bridge study with its value, interval and verdict. Raises NoTable."""
    frame = read_table(file, ("study", *CLAIMS))
    table = Table(title=f"{frame.study.iloc[0]}: claims", box=box.SIMPLE_HEAD)
    for name in CLAIMS:
        table.add_column(name, justify="right" if name in ("value", "low", "high", "p") else "left")
    for row in frame[list(CLAIMS)].itertuples(index=False):
        cells = (f"{x:.3g}" if isinstance(x, float) else x for x in row)
        table.add_row(*("" if cell == "nan" else cell for cell in cells))
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(table)
    return 0


def warnings_of(rows: pd.DataFrame) -> list[str]:
    """One line for each reason why B, A and P of some rows must not be compared."""
    unlike = rows[rows.comparable != "true"]
    lines = []
    for reason, group in unlike.groupby("comparable"):
        where = ", ".join(sorted(set(group.recipe + " under " + group["mask"])))
        reason = reason.removeprefix("false: ")
        lines.append(f"NOT COMPARABLE, B, A and P were measured with {reason}: {where}")
    return lines


def _leaks(row: pd.Series) -> str:
    found = [n for n, leaky in (("train", row.train_leaks), ("eval", row.eval_leaks)) if leaky]
    return " ".join(found) or "-"


def _number(name: str):
    return lambda row: "" if pd.isna(row[name]) else f"{row[name]:.3f}"


def _interval(name: str, decimals: int = 3):
    def text(row: pd.Series) -> str:
        if pd.isna(row[name]):
            return "not estimable" if row.recovered_status == "not_estimable" else ""
        value, low, high = (
            f"{row[c]:+.{decimals}f}" for c in (name, f"{name}_low", f"{name}_high")
        )
        return f"{value} [{low}, {high}]"

    return text


def _p(name: str):
    def text(row: pd.Series) -> str:
        p = row[f"{name}_p"]
        return "" if pd.isna(p) else "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")

    return text


def _criteria(row: pd.Series) -> str:
    return "yes" if str(row.criteria_met) == "True" else "no"


# Column heads and how each cell is read from a row of recovery.csv.
LOST = {
    "mask": lambda row: row["mask"],
    "task": lambda row: row.task,
    "leaks": lambda row: "eval" if row.eval_leaks else "-",
    "B": _number("baseline"),
    "A": _number("ablated"),
    "damage A - B": _interval("damage"),
    "p": _p("damage"),
}
BACK = {
    "recipe": lambda row: row.recipe,
    "mask": lambda row: row["mask"],
    "task": lambda row: row.task,
    "leaks": _leaks,
    "P": _number("after"),
    "gain P - A": _interval("gain"),
    "p": _p("gain"),
    "recovered": _interval("recovered", decimals=2),
    "P / B": _number("retention"),
    "criteria met": _criteria,
}
SIDE = {
    "recipe": lambda row: row.recipe,
    "task": lambda row: row.task,
    "leaks": _leaks,
    "B": _number("baseline"),
    "P": _number("after"),
    "P - B": _interval("side_effect"),
    "p": _p("side_effect"),
    "P / B": _number("retention"),
}


def _table(title: str, rows: pd.DataFrame, cells: dict) -> Table:
    words = ("recipe", "mask", "task", "leaks")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    shown = [head for head in cells if head != "task" or set(rows.task) - {MACRO}]
    for head in shown:
        # on a narrow terminal intervals take two lines: no digit is cut off
        table.add_column(
            head, justify="left" if head in words else "right", no_wrap=" " not in head
        )
    for _, row in rows.iterrows():
        table.add_row(*(cells[head](row) for head in shown))
    return table


def print_plan(plan: Plan, study: str, stale: int) -> None:
    """What is stale, and what it would take and cost on each class of machine."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    if not plan.works:
        other = f"; {stale} jobs make data and tables" if stale else ""
        console.print(f"{study}: no job that runs the model is stale{other}")
        for note in plan.notes:
            if note.startswith("NOT COUNTED"):  # the bridge's jobs do run models
                console.print(note)
        return
    jobs = Table(title=f"{study}: {len(plan.works)} model jobs", box=box.SIMPLE_HEAD)
    jobs.add_column("stale")
    jobs.add_column(f"hours on one {plan.rates.gpu}", justify="right")
    for work in plan.works:
        jobs.add_row(work.name, f"{work.alone / 3600:.2f}")
    console.print(jobs)
    costs = Table(title="what they come to, cheapest first", box=box.SIMPLE_HEAD)
    for column in ("machine", "machines", "$/h each", "hours", "dollars"):
        costs.add_column(column, justify="left" if column == "machine" else "right")
    costs.add_column("price")
    for e in plan.estimates:
        price = f"{e.offer.dollars_per_hour:.2f}"
        figures = (str(e.machines), price, f"{e.hours:.2f}", f"{e.dollars:.2f}")
        costs.add_row(e.offer.name, *figures, e.offer.source)
    console.print(costs)
    for note in plan.notes:
        console.print(note, style="dim")
