"""The recovery table on a terminal: one line a recipe and mask, words beside the numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

LEGEND = (
    "B: base, causal. A: base, ablated mask. P: after finetuning, same mask as A.\n"
    "damage = A - B, gain = P - A, side effect = P - B (causal only), "
    "recovered = (P - A) / (B - A)."
    " In brackets: intervals.\n"
    "leaks: under this mask a model sees its own targets; such a score measures nothing else."
)


def print_recovery(file: str | Path, seed: str, task: str) -> int:
    """Print the rows of one seed (or `all`) and one task (or `each`); 1 when there are none."""
    frame = pd.read_csv(file, dtype={"seed": str, "recipe": str})
    rows = frame[frame.seed == seed]
    rows = rows if task == "each" else rows[rows.task == task]
    if rows.empty:
        found = (
            f"seeds {', '.join(frame.seed.unique())}; tasks {', '.join(frame.task.unique())}, each"
        )
        print(
            f"{file} has no rows of seed {seed} and task {task}. It has {found}.", file=sys.stderr
        )
        return 1
    study = frame.study.iloc[0]
    table = Table(title=f"Recovery, study {study}, seed {seed}", title_justify="left")
    for name in ("recipe", "mask", "task", "leaks"):
        table.add_column(name)
    for name in ("B", "A", "P", "damage", "gain", "side effect", "P / B", "recovered"):
        table.add_column(name, justify="right")
    for _, row in rows.iterrows():
        leaks = [n for n, leaky in (("train", row.train_leaks), ("eval", row.eval_leaks)) if leaky]
        table.add_row(
            row.recipe,
            row["mask"],
            row.task,
            " ".join(leaks) or "-",
            *(_number(row[c]) for c in ("baseline", "ablated", "after")),
            *(_interval(row, c) for c in ("damage", "gain", "side_effect")),
            _number(row.retention),
            _interval(row, "recovered")
            if row.recovered_status != "not_estimable"
            else "not estimable",
        )
    width = None if sys.stdout.isatty() else 170
    console = Console(width=width)
    console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    return 0


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f}"


def _interval(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return ""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:+.3f}" + ("" if pd.isna(low) else f" [{low:+.3f}, {high:+.3f}]")
