"""The recovery table on a terminal: one line a recipe and mask, words beside the numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

LEGEND = (
    "B: base under causal. A: base under the mask. P: after finetuning, under the mask. All on the "
    "same items.\nrecovered: (P - A) / (B - A). In brackets: intervals. leaks: under this mask a "
    "model sees its own\ntargets, while it was trained or scored; such a number measures nothing "
    "else."
)
WIDTH = 140  # where there is no terminal to ask


def print_recovery(file: str | Path, seed: str, task: str) -> int:
    """Print the rows of one seed (or `all`) and one task (or `each`); 1 when there are none."""
    frame = pd.read_csv(file, dtype={"seed": str, "recipe": str})
    rows = frame[frame.seed == seed]
    rows = rows if task == "each" else rows[rows.task == task]
    if rows.empty:
        seeds, tasks = (", ".join(frame[c].unique()) for c in ("seed", "task"))
        print(
            f"{file} has no rows of seed {seed} and task {task}. It has seeds {seeds}; "
            f"tasks {tasks}, or `each`.",
            file=sys.stderr,
        )
        return 1
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    study, ablated = frame.study.iloc[0], rows["mask"] != "causal"
    title = f"{study}: what was lost and what came back (seed {seed})"
    console.print(_table(title, rows[ablated], {"P - A": "gain", "recovered": "recovered"}))
    title = f"{study}: side effect on ordinary, causal use (seed {seed})"
    console.print(_table(title, rows[~ablated], {"P - B": "side_effect"}))
    console.print(LEGEND, style="dim", highlight=False)
    return 0


def _table(title: str, rows: pd.DataFrame, differences: dict[str, str]) -> Table:
    scores = {"B": "baseline", "A": "ablated", "P": "after", "P / B": "retention"}
    scores = {short: column for short, column in scores.items() if rows[column].notna().any()}
    with_task = rows.task.nunique() > 1
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("recipe", "mask", *(["task"] if with_task else []), "leaks"):
        table.add_column(name, no_wrap=True)
    for name in (*scores, *differences):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        leaks = [n for n, leaky in (("train", row.train_leaks), ("eval", row.eval_leaks)) if leaky]
        table.add_row(
            row.recipe,
            row["mask"],
            *([row.task] if with_task else []),
            " ".join(leaks) or "-",
            *(_number(row[column]) for column in scores.values()),
            *(_interval(row, column) for column in differences.values()),
        )
    return table


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f}"


def _interval(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return "not estimable" if row.recovered_status == "not_estimable" else ""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:+.2f}" + ("" if pd.isna(low) else f" [{low:+.2f}, {high:+.2f}]")
