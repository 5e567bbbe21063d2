"""Prints the tables of recovered accuracy and of the bridge's claims on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table

from ablation.console.printable import printable
from ablation.console.tables import TextConsole
from ablation.provenance.manifests import load_manifest
from ablation.provenance.tables import read_table
from ablation.report.recovery_columns import (
    BACK,
    LEGEND,
    LOST,
    SIDE,
    Cell,
    interval,
    measured_losses,
    warnings_of,
)
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO, MACROS

# Columns that only a recovery table has together.
RECOVERY = (
    *("study", "recipe", "seed", "mask", "task", "comparable", "exposure", "seeds_disagree"),
    *("damage", "gain", "recovered", "net_recovered"),
)


def print_recovery(file: str | Path, seed: str, task: str) -> int:
    """Print the rows of one seed (or `all`) and one task; returns the exit status, 1 without rows.

    The task `macro` prints the macro of each protocol, `each` prints all tasks. Raises NoTable.
    """
    dtypes = dict.fromkeys(("seed", "recipe", "comparable", "mask", "task"), str)
    frame = read_table(file, RECOVERY, dtype=dtypes)
    rows = frame[frame.seed == seed]
    wanted = MACROS if task == MACRO else [task]
    rows = rows if task == "each" else rows[rows.task.isin(wanted)]
    if rows.empty:
        seeds, tasks = (", ".join(frame[c].unique()) for c in ("seed", "task"))
        problem = f"{file} has no rows of seed {seed} and task {task}. It has seeds {seeds}; "
        print(printable(f"{problem}tasks {tasks}, or `each`."), file=sys.stderr)
        return 1
    console = TextConsole()
    study, masked = frame.study.iloc[0], rows[rows["mask"] != CAUSAL]
    causal = rows[rows["mask"] == CAUSAL]
    console.print(_table(f"{study}: what was lost", measured_losses(masked), LOST))
    console.print(_table(f"{study}: what came back (seed {seed})", masked, BACK))
    console.print(
        _table(f"{study}: side effect on ordinary, causal use (seed {seed})", causal, SIDE)
    )
    for line in warnings_of(rows):
        console.print(line, style="bold red")
    console.print(_legend(Path(file).parent, study), style="dim")
    return 0


def _legend(home: Path, study: str) -> str:
    """The legend, with the confidence level of the intervals if the table has a manifest."""
    for manifest in (home / "recovery.manifest.json", home / study / "recovery.manifest.json"):
        if manifest.is_file():
            level = load_manifest(manifest)["fingerprint"]["config"]["statistics"]["confidence"]
            return LEGEND.replace("brackets: intervals", f"brackets: {100 * level:g} % intervals")
    return LEGEND


# columns of claims.csv
CLAIMS = ("regime", "claim", "value", "low", "high", "p", "design_effect", "verdict")


def print_claims(file: str | Path) -> int:
    """Print the claims of a bridge study; returns the exit status 0. Raises NoTable."""
    frame = read_table(file, ("study", *CLAIMS))
    table = Table(title=f"{frame.study.iloc[0]}: claims", box=box.SIMPLE_HEAD)
    for name in CLAIMS:
        left = name in ("regime", "claim", "verdict")
        table.add_column(name.replace("_", " "), justify="left" if left else "right")
    for row in frame[list(CLAIMS)].itertuples(index=False):
        cells = (f"{x:.3g}" if isinstance(x, float) else x for x in row)
        table.add_row(*("" if cell == "nan" else cell for cell in cells))
    console = TextConsole()
    console.print(table)
    return 0


def print_worlds(rows: pd.DataFrame, pooled: pd.DataFrame) -> None:
    """Print R and net R of each world and over all worlds (`ablation.analysis.worlds`)."""
    table = Table(title="recovery over worlds", title_justify="left", box=box.SIMPLE_HEAD)
    for head in ("recipe", "mask", "measure", "worlds", "mean", "new world", "each world"):
        table.add_column(head, justify="left", no_wrap=" " not in head)
    keys = ["recipe", "mask", "measure"]
    for _, row in pooled.iterrows():
        values = rows.value[(rows[keys] == row[keys]).all(axis=1)]
        table.add_row(
            *(str(row[key]).replace("_", " ") if key == "measure" else row[key] for key in keys),
            str(row.worlds),
            f"{row['mean']:+.2f} [{row.low:+.2f}, {row.high:+.2f}]",
            f"[{row.new_world_low:+.2f}, {row.new_world_high:+.2f}]",
            " ".join(f"{value:.2f}" for value in values),
        )
    TextConsole().print(table)


def print_doses(rows: pd.DataFrame) -> None:
    """Print R and net R by the families of the records (`ablation.analysis.doses`)."""
    table = Table(
        title="recovery by families of records", title_justify="left", box=box.SIMPLE_HEAD
    )
    heads = {"R": "recovered", "net R": "net_recovered", "R - R(none)": "recovered_difference"}
    for head in ("recipe", "group", "families", "tokens", *heads, "R of each seed"):
        table.add_column(head, justify="left", no_wrap=head == "recipe")
    macro = rows[rows.task == MACRO]
    for _, row in macro[macro.seed == ALL_SEEDS].iterrows():
        each = macro.recovered[(macro.recipe == row.recipe) & (macro.seed != ALL_SEEDS)]
        table.add_row(
            *(row.recipe, row.group, str(row.families), f"{row.tokens:,.0f}"),
            *(interval(name, 2)(row) for name in heads.values()),
            " ".join(f"{value:+.2f}" for value in each),
        )
    TextConsole().print(table)


def _table(title: str, rows: pd.DataFrame, cells: Mapping[str, Cell]) -> Table:
    left = ("recipe", "mask", "task", "leaks", "seeds")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    shown = [head for head in cells if head != "task" or set(rows.task) - {MACRO}]
    for head in shown:
        # on a narrow terminal an interval takes several lines, so that no digit is cut off
        table.add_column(
            head,
            justify="left" if head in left else "right",
            no_wrap=" " not in head,
            min_width=max(map(len, head.split())),
        )
    for _, row in rows.iterrows():
        table.add_row(*(cells[head](row) for head in shown))
    return table
