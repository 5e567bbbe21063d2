"""The columns of the recovery table as the report and `ablation table` show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from ablation.vocabulary.protocols import HELD_OUT, PARTIAL_MACROS
from ablation.vocabulary.recipes import RECIPE, recipe_of

Cell = Callable[[pd.Series], str]  # from a row of recovery.csv to the text of a cell

LEGEND = """\
B: base under causal. A: base under the mask. P: after finetuning, under the mask. C and D: the
control, finetuned on the same records without the ablation, under causal and under the mask.
recovered: (P - A) / (B - A), how near the model comes to the base without the ablation.
net recovered: (P - D) / (C - D), how near it comes to the control. All on the same items.
held out: the finetuning records hold none of these tasks. In brackets: intervals; how far to trust
them: docs/statistics.md. criteria met: the study's thresholds on P / B and P - A.
seeds: disagree: P differs between the seeds by more than the draw of items explains (p < .01), so
look at each seed; an interval over so few does not say how often one fails.
leaks: train: the recipe was trained under a mask that shows each token its own target. eval: A, P
are scored under such a mask: they say how much of the answer was seen, not what a model can do.\
"""


def warnings_of(rows: pd.DataFrame) -> list[str]:
    """One line for each reason why B, A and P of some rows must not be compared."""
    not_comparable = rows[rows.comparable != "true"]
    lines = []
    for comparable, group in not_comparable.groupby("comparable"):
        where = ", ".join(sorted(set(group.recipe + " under " + group["mask"])))
        reason = str(comparable).removeprefix("false: ")
        lines.append(f"NOT COMPARABLE, B, A and P were measured with {reason}: {where}")
    return lines


def _leaks(row: pd.Series) -> str:
    found = [n for n, leaky in (("train", row.train_leaks), ("eval", row.eval_leaks)) if leaky]
    return " ".join(found) or "-"


def seeds(row: pd.Series) -> str:
    """`disagree`, `-`, or nothing in a row of one seed."""
    found = row.seeds_disagree
    return "" if pd.isna(found) else "disagree" if str(found) == "True" else "-"


def _number(name: str) -> Cell:
    return lambda row: "" if pd.isna(row[name]) else f"{row[name]:.3f}"


def interval(name: str, decimals: int = 3) -> Cell:
    """The value with its interval, signed; why there is none; or nothing if none is defined."""

    def text(row: pd.Series) -> str:
        if pd.isna(row[name]):
            status = row.get(f"{name}_status")
            return "" if status is None or pd.isna(status) else str(status).replace("_", " ")
        value, low, high = (
            f"{row[c]:+.{decimals}f}" for c in (name, f"{name}_low", f"{name}_high")
        )
        return f"{value} [{low}, {high}]"

    return text


def p_text(p: float) -> str:
    """A p value to three decimals; nothing if there is none."""
    return "" if pd.isna(p) else "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _p(name: str) -> Cell:
    return lambda row: p_text(row[f"{name}_p"])


def _task(row: pd.Series) -> str:
    held_out = row.exposure == HELD_OUT and row.task not in PARTIAL_MACROS
    return f"{row.task} (held out)" if held_out else str(row.task)


def measured_losses(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each mask and task: B and A do not depend on recipe and seed."""
    whole = rows[~rows.task.isin(PARTIAL_MACROS)]  # these have the tasks of one recipe
    return whole.drop_duplicates(["mask", "task", "damage", "damage_p"])


def _criteria(row: pd.Series) -> str:
    return "yes" if str(row.criteria_met) == "True" else "no"


# {head of a column: its cell} of three tables: lost accuracy, recovered accuracy, and side effect.
LOST: Mapping[str, Cell] = {
    "mask": lambda row: row["mask"],
    "task": lambda row: row.task,
    "leaks": lambda row: "eval" if row.eval_leaks else "-",
    "B": _number("baseline"),
    "A": _number("ablated"),
    "damage A - B": interval("damage"),
    "p": _p("damage"),
}

BACK: Mapping[str, Cell] = {
    "recipe": lambda row: row.recipe,
    "mask": lambda row: row["mask"],
    "task": _task,
    "leaks": _leaks,
    "seeds": seeds,
    "P": _number("after"),
    "gain P - A": interval("gain"),
    "p": _p("gain"),
    "recovered": interval("recovered", decimals=2),
    "net recovered": interval("net_recovered", decimals=2),
    "P / B": _number("retention"),
    "criteria met": _criteria,
}

SIDE: Mapping[str, Cell] = {
    "recipe": lambda row: row.recipe,
    "task": _task,
    "leaks": _leaks,
    "seeds": seeds,
    "B": _number("baseline"),
    "P": _number("after"),
    "P - B": interval("side_effect"),
    "p": _p("side_effect"),
    "P / B": _number("retention"),
}


# ---- what letters and recipes mean -----------------------------------------------------------

RECOVERED, NET_RECOVERED = "R", "net R"  # heads of the table of the report's first page

LETTERS = {
    "B": "base, causal",
    "A": "base, under the mask",
    "P": "finetuned, under the mask",
    "C": "control, causal",
    "D": "control, under the mask",
    "R": "recovered fraction (P - A) / (B - A)",
    "net R": "recovered, net of the control: (P - D) / (C - D)",
}
# {head of a column: the letters that its meaning needs beside those of its name}
NEEDED = {
    RECOVERED: "BAPR",
    "recovered": "BAPR",
    "difference of recovered": "BAPR",
    NET_RECOVERED: "PCD",
    "net recovered": "PCD",
}
ALIASES = {"R": "recovered, R", "net R": "net recovered, net R"}


def legend(rows: Sequence[Mapping[str, str]]) -> str:
    """One paragraph with the meanings of the letters in the heads and of the recipes in the rows.

    Under `causal`, the side effect has P of the finetuned model under that mask.
    """
    if not rows:
        return ""
    parts = [f"{name} = {meaning}" for name, meaning in _letters(rows[0]).items()]
    named = [row[column] for row in rows for column in ("recipe", "against") if column in row]
    parts += [f"{name} = {meaning}" for name, meaning in recipes(named).items()]
    if any("leaks" in row and row["leaks"] != "-" for row in rows):
        parts.append("leaks = the model sees the tokens that it is to predict")
    return "; ".join(parts) + "." if parts else ""


def recipes(names: Iterable[str]) -> dict[str, str]:
    """{recipe: what it is} of those recipes whose variants or selves are named."""
    found = {recipe_of(str(name)) for name in names}
    return {name: recipe.note.partition(";")[0] for name, recipe in RECIPE.items() if name in found}


def _letters(heads: Iterable[str]) -> dict[str, str]:
    found: set[str] = set()
    for head in heads:
        found |= set(re.findall(r"\b[BAPCD]\b", head)) | set(NEEDED.get(head, ""))
        found |= {"net R"} if NEEDED.get(head) == "PCD" else set()
    return {ALIASES.get(name, name): LETTERS[name] for name in LETTERS if name in found}
