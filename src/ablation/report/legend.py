"""What the letters and recipes of a table mean, for the line under the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ablation.vocabulary.recipes import RECIPE, recipe_of

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
