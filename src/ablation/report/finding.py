"""The finding of a study in two sentences, each with its scope, from its recovery table.

`python -m ablation.report.finding results/demo/recovery.csv` prints it in a box, with what to do
next.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.panel import Panel

from ablation.console.printable import printable
from ablation.console.tables import TextConsole
from ablation.provenance.tables import read_table
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO, TRAINED

ESTIMABLE = "estimable"
WIDTH = 110  # characters, but for longer commands
NUMBERS = ("damage", "recovered", "net_recovered")
COLUMNS = (
    *("study", "recipe", "seed", "mask", "task", "train_leaks", "eval_leaks", "exposure"),
    *("baseline", "ablated", "after", "control", "recovered_status", "net_recovered_status"),
    *(f"{name}{end}" for name in NUMBERS for end in ("", "_low", "_high")),
)


def chosen_row(recovery: pd.DataFrame) -> pd.Series | None:
    """The row of the first recipe without a leak whose recovery can be estimated, over all tasks.

    Recipes with a control come first. None if there is no such recipe.
    """
    rows = recovery[(recovery.task == MACRO) & (recovery["mask"] != CAUSAL)]
    leaks = rows[["train_leaks", "eval_leaks"]].astype(str) == "True"
    rows = rows[~leaks.any(axis=1)]
    rows = rows[rows.recovered_status == ESTIMABLE]
    rows = rows.assign(single=rows.seed != ALL_SEEDS, alone=rows.control.isna())
    rows = rows.sort_values(["alone", "single"], kind="stable")
    return None if rows.empty else rows.iloc[0]


def finding(recovery: pd.DataFrame) -> list[str]:
    """The sentences on `chosen_row`: what was lost and came back, and that against the control."""
    row = chosen_row(recovery)
    if row is None:
        return ["No recipe without a leak has a recovery that can be estimated: see the tables."]
    own = recovery[(recovery.recipe == row.recipe) & (recovery.seed != ALL_SEEDS)]
    seeds = "one seed" if own.seed.nunique() == 1 else f"{own.seed.nunique()} seeds"
    asked = "; its records ask these tasks" if row.exposure == TRAINED else ""
    found = [
        f"Under the mask {row['mask']} the base falls from {row.baseline:.3f} to "
        f"{row.ablated:.3f} correct; after the finetuning {row.recipe} it reaches "
        f"{row.after:.3f}: R = {_interval(row, 'recovered')} of the loss ({seeds}{asked})."
    ]
    if row.net_recovered_status == ESTIMABLE:
        found.append(
            f"Against the control {row.control}, trained on the same records without the mask, "
            f"net R = {_interval(row, 'net_recovered')}."
        )
    return found


def _interval(row: pd.Series, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.2f} [{low:.2f}, {high:.2f}]"


def show(file: Path) -> None:
    """Print the finding of a recovery table, and three commands that go on from it."""
    frame = read_table(file, COLUMNS, dtype=dict.fromkeys(("seed", "recipe", "control"), str))
    study, row = str(frame.study.iloc[0]), chosen_row(frame)
    home = file.parent if file.parent.name == study else file.parent / study
    here = home == Path("results") / study
    table, folder = (f"--study {study}",) * 2 if here else (str(file), str(home))
    next_steps = {
        f"ablation table {table} --task each": "Every task:",
        f"ablation verify {folder}": "Is all as it was made?",
    }
    if row is not None:
        where = " ".join(f"{key}={row[key]}" for key in ("recipe", "seed", "mask", "task"))
        trace = f"ablation trace {table} --column recovered --where {where}"
        next_steps[trace] = "Where does the number come from?"
    text = [
        *finding(frame),
        "",
        f"All of it, with figures, in a browser: {home.parent / 'report.html'}",
        *(f"\n{what}\n    {command}" for command, what in next_steps.items()),
    ]
    lines = printable_lines(text)
    widest = max(len(line) for line in lines.splitlines() if line.startswith("    "))
    width = max(WIDTH, widest + 4)  # no command is broken
    TextConsole().print(Panel(lines, title=printable(study), width=width))


def printable_lines(lines: Sequence[str]) -> str:
    """Lines whose texts come from a table, with control characters written out."""
    return "\n".join(printable(line) for text in lines for line in text.split("\n"))


if __name__ == "__main__":
    show(Path(sys.argv[1]))
