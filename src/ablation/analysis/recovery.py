"""The recovery table: how much accuracy an ablation loses, and how much finetuning gives back.

B, A and P are a model's accuracies on the same items: the base under `causal`, the base under an
ablated mask, and the finetuned model under that mask. docs/stages.md has the names,
docs/statistics.md the formulas. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
import pandas as pd

from ablation.analysis.conditions import Condition, paired
from ablation.analysis.recovery_columns import COLUMN, COLUMNS, Comparison, RecoverySettings, Value
from ablation.analysis.statistics import Difference, Means, holm, mcnemar, paired_means
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import ALL_SEEDS, metric_of, tasks_by_macro
from ablation.vocabulary.recipes import RECIPES, contrasted

CONTRAST_COLUMNS = [
    *("study", "recipe", "against", "seed", "mask", "train_leaks", "eval_leaks", "task", "n"),
    *("after", "after_against"),
    *("recovered_difference", "recovered_difference_low", "recovered_difference_high"),
    "recovered_status",
]
# Columns of both tables that hold no numbers; hashes of manifests come on top.
WORDS = {"against"} | {column.name for column in COLUMN.values() if column.kind == "words"}

Row = dict[str, Value]
Scores = Mapping[str, np.ndarray]  # task -> [conditions, seeds, items] of 0/1
Seeded = TypeVar("Seeded")


def recovery_rows(
    recipe: str,
    mask: str,
    baseline: Condition,
    ablated: Condition | None,
    after: Mapping[int, Condition],
    settings: RecoverySettings,
) -> list[Row]:
    """The rows of one recipe under one mask: for each seed and for all, each task and macro.

    `after` holds the finetuned conditions by seed. `ablated` is None under `causal`, where only the
    side effect P - B is defined.
    """
    fixed = [baseline] if ablated is None else [baseline, ablated]
    last = len(fixed)
    # B and A do not depend on seeds, so all rows of a mask have the same damage
    damage = _differences(_scores(fixed, [], settings), 1, 0, settings) if ablated else {}
    rows = []
    for seed, finetuned in _by_seed(after):
        scores = _scores(fixed, [finetuned], settings)
        changes = _differences(scores, last, last - 1, settings)
        for task, means in _means(scores, settings).items():
            comparison = Comparison(
                settings,
                recipe,
                seed,
                mask,
                task,
                n=_items(scores, task),
                baseline=baseline,
                ablated=ablated,
                finetuned=finetuned,
                b=means.values[0],
                a=means.values[1] if ablated else None,
                p=means.values[last],
                damage=damage.get(task),
                change=changes[task],
                recovered=means.ratio((2, 1), (0, 1)) if ablated else None,
            )
            rows.append({name: column.compute(comparison) for name, column in COLUMN.items()})
    return rows


def contrast_rows(
    recipe: str,
    against: str,
    mask: str,
    baseline: Condition,
    ablated: Condition,
    after: Mapping[int, Condition],
    after_against: Mapping[int, Condition],
    settings: RecoverySettings,
) -> list[Row]:
    """The rows of R(recipe) - R(against) under one mask.

    Both have the denominator B - A, so the difference is (P - P') / (B - A), with an interval by
    Fieller's method.
    Seeds are paired, because the same seed has the same order of the same finetuning data.
    """
    rows: list[Row] = []
    both = {s: [after[s], after_against[s]] for s in set(after) & set(after_against)}
    for seed, pairs in _by_seed(both):
        scores = _scores([baseline, ablated], list(zip(*pairs, strict=True)), settings)
        finetuned = list(chain(*pairs))
        for task, means in _means(scores, settings).items():
            row: Row = {
                "study": settings.study,
                "recipe": recipe,
                "against": against,
                "seed": seed,
                "mask": mask,
                "train_leaks": any(c.train_leaks for c in finetuned),
                "eval_leaks": any(c.eval_leaks for c in (baseline, ablated, *finetuned)),
                "task": task,
                "n": _items(scores, task),
                "after": means.values[2],
                "after_against": means.values[3],
            }
            ratio = means.ratio((2, 3), (0, 1))
            low, high = ratio.interval or (None, None)
            row |= {
                "recovered_difference": ratio.value,
                "recovered_difference_low": low,
                "recovered_difference_high": high,
                "recovered_status": ratio.status,
            }
            rows.append(row)
    return rows


def _by_seed(after: Mapping[int, Seeded]) -> list[tuple[int | str, list[Seeded]]]:
    """(seed, [its value]) for each seed, and then (`all`, all values)."""
    seeds = sorted(after)
    return [*((s, [after[s]]) for s in seeds), (ALL_SEEDS, [after[s] for s in seeds])]


def _scores(
    fixed: Sequence[Condition], seeded: Sequence[Sequence[Condition]], settings: RecoverySettings
) -> dict[str, np.ndarray]:
    """Scores of each task, [conditions, seeds, items]: first `fixed`, repeated along the seeds."""
    n_seeds = len(seeded[0]) if seeded else 1
    columns: list[Sequence[Condition]] = [*([c] * n_seeds for c in fixed), *seeded]
    scores = {}
    for task in fixed[0].correct[settings.metric]:
        stacked = paired(list(chain(*columns)), metric_of(task, settings.metric), task)
        scores[task] = stacked.reshape(len(columns), n_seeds, -1)
    return scores


def _means(scores: Scores, settings: RecoverySettings) -> dict[str, Means]:
    """The means of each task and each macro."""
    confidence = settings.statistics.confidence
    groups = {task: [task] for task in scores} | tasks_by_macro(scores)
    return {n: paired_means([scores[t] for t in group], confidence) for n, group in groups.items()}


def _differences(
    scores: Scores, after: int, before: int, settings: RecoverySettings
) -> dict[str, Difference]:
    """The differences of two conditions in each task and macro.

    p values of tasks are adjusted by Holm over the tasks of a protocol. For one seed they are exact
    (McNemar). For several seeds, and for a macro, accuracies are means instead of 0 or 1, and the p
    value is the one that agrees with the interval.
    """
    found = {task: m.difference(after, before) for task, m in _means(scores, settings).items()}
    raw = {
        task: found[task].p if s.shape[1] > 1 else mcnemar(s[before, 0], s[after, 0])
        for task, s in scores.items()
    }
    adjusted: dict[str, float] = {}
    for names in tasks_by_macro(scores).values():
        adjusted |= zip(names, holm([raw[task] for task in names]), strict=True)
    return {task: d._replace(p=adjusted.get(task, d.p)) for task, d in found.items()}


def _items(scores: Scores, task: str) -> int:
    return sum(scores[name].shape[2] for name in tasks_by_macro(scores).get(task, [task]))


def study_tables(
    conditions: Sequence[Condition], settings: RecoverySettings
) -> tuple[list[Row], list[Row]]:
    """(rows of recovery.csv, rows of contrasts.csv) of all conditions of a study.

    Raises UnpairedItems if conditions were not scored on the same documents.
    """
    base = {c.mask: c for c in conditions if c.recipe is None}
    finetuned: dict[tuple[str, str], dict[int, Condition]] = {}
    for c in conditions:
        if c.recipe is not None and c.seed is not None:
            finetuned.setdefault((c.recipe, c.mask), {})[c.seed] = c
    rows: list[Row] = []
    contrasts: list[Row] = []
    causal = base[CAUSAL]
    for (recipe, mask), after in sorted(finetuned.items()):
        ablated = base[mask] if mask != CAUSAL else None
        rows += recovery_rows(recipe, mask, causal, ablated, after, settings)
        for against in sorted(RECIPES):  # no variant is contrasted with another variant
            other = finetuned.get((against, mask))
            if ablated and other and contrasted(recipe, against):
                contrasts += contrast_rows(
                    recipe, against, mask, causal, ablated, after, other, settings
                )
    return rows, contrasts


def table(rows: Sequence[Mapping], columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Rows as a table with exactly `columns`, rounded so that equal results have equal bytes.

    Numbers are rounded to 9 decimals. p values are rounded to 6 significant digits, so that a tiny
    one does not become 0.
    """
    frame = pd.DataFrame(list(rows)).reindex(columns=list(columns))
    for column in columns:
        if column.endswith("_p"):
            frame[column] = pd.to_numeric(frame[column]).map(lambda p: float(f"{p:.6g}"))
        elif column not in WORDS and not column.endswith("_manifest"):
            frame[column] = pd.to_numeric(frame[column]).round(9)
    return frame
