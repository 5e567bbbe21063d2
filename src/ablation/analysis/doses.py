"""The study of doses: what comes back on tasks that no record asks, by families of records.

A dose is the number of families that a recipe's records hold beside open requests. Nothing is
scored on these families. This module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ablation.provenance.manifests import load_manifest, verify_outputs
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.micro_families import FIRST_ORDER, NEVER_SEEN, SECOND_ORDER, SEEN
from ablation.vocabulary.micro_tasks import TASKS
from ablation.vocabulary.recipes import recipe_of

OPEN = frozenset({"open"})
NONE = "none"  # the recipe that every other one is compared with
# {name of a group: the families from which it has its dose}; a dose belongs to the first that fits.
GROUPS = {
    NONE: (),
    "first order": FIRST_ORDER,
    "second order": SECOND_ORDER,
    "both orders": NEVER_SEEN,
    "seen in pretraining": SEEN,
    "the tasks": TASKS,
}
_RATIOS = ("recovered", "net_recovered", "recovered_difference")
_ENDS = ("", "_low", "_high")
DOSE_COLUMNS = (
    *("recipe", "group", "families", "records", "steps", "tokens"),
    *("mask", "seed", "task", "exposure"),
    *(ratio + end for ratio in _RATIOS for end in _ENDS),
)


class Trained(NamedTuple):
    """What the trainings of a recipe read: families, and means over its seeds."""

    families: frozenset[str]
    records: float
    steps: float
    tokens: float


def trainings(study: Path) -> dict[str, Trained]:
    """{recipe: what its trainings read} of a study's folder.

    Raises StaleInput for a training whose manifest or summary is not as it was made.
    """
    found: dict[str, list[tuple]] = {}
    for path in sorted(study.glob("stage*/*/seed*/manifest.json")):
        manifest = load_manifest(path)
        if "summary.json" not in manifest["outputs"]:
            continue  # scores
        verify_outputs(path, manifest, {"summary.json"})
        summary = json.loads(path.with_name("summary.json").read_text("utf-8"))
        numbers = [summary[key] for key in ("train_examples", "steps", "tokens")]
        found.setdefault(manifest["recipe"], []).append((manifest["families"], *numbers))
    return {
        recipe: Trained(
            frozenset(runs[0][0]), *(sum(run[k] for run in runs) / len(runs) for k in (1, 2, 3))
        )
        for recipe, runs in found.items()
    }


def group_of(families: Collection[str]) -> str:
    """The group of GROUPS that a recipe belongs to. Raises ValueError if it belongs to none."""
    beside = set(families) - OPEN
    for group, known in GROUPS.items():
        if beside <= set(known):
            return group
    raise ValueError(f"no group of families has {', '.join(sorted(beside))} together")


def dose_rows(
    recovery: pd.DataFrame, contrasts: pd.DataFrame, trained: Mapping[str, Trained]
) -> pd.DataFrame:
    """The rows of recovery.csv of recipes that were trained under an ablated mask, by dose.

    `recovered_difference` is R minus that of the recipe without families, from contrasts.csv.
    """
    keys = ["recipe", "mask", "seed", "task"]
    rows = recovery[recovery["mask"] != CAUSAL]
    rows = rows[rows.recipe.map(lambda name: recipe_of(name) != "3A")]
    (none,) = {r for r in rows.recipe.unique() if group_of(trained[r].families) == NONE}
    against = contrasts[contrasts.against == none]
    rows = rows.merge(against[[*keys, *(f"recovered_difference{e}" for e in _ENDS)]], "left", keys)
    of = rows.recipe.map(trained.__getitem__)
    rows = rows.assign(
        group=[group_of(t.families) for t in of],
        families=[len(t.families - OPEN) for t in of],
        **{name: [getattr(t, name) for t in of] for name in ("records", "steps", "tokens")},
    )
    order = rows.group.map(list(GROUPS).index)
    rows = rows.assign(order=order).sort_values(
        ["mask", "order", "families", "task", "seed"], kind="stable"
    )
    return rows[list(DOSE_COLUMNS)].reset_index(drop=True)
