"""Counts of items by whether they were right before the ablation, under it, and after finetuning.

Accuracies show how many items are right; these counts show whether the items that finetuning
regains are those that the ablation lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ablation.analysis.conditions import Condition, paired
from ablation.analysis.metrics import known_metric
from ablation.vocabulary.generation import EXACT_MATCH, macros, metric_of_row
from ablation.vocabulary.masks import CAUSAL

# Right (R) or wrong (W) in B, A and P: the base under causal, the base under the mask, and the
# finetuned model under the mask.
PATTERNS = ("WWW", "WWR", "WRW", "WRR", "RWW", "RWR", "RRW", "RRR")
COLUMNS = [
    *("study", "recipe", "seed", "mask", "train_leaks", "eval_leaks", "task", "n"),
    *("pattern", "items", "share"),
]


def flips_table(study: str, conditions: Sequence[Condition], metric: str) -> pd.DataFrame:
    """Counts of the eight patterns for each recipe, seed, ablated mask and task, with `COLUMNS`.

    `share` is items / n; for a macro it is the unweighted mean of its tasks' shares, so that
    shares add up to the macro accuracies. There are no rows under `causal`, where nothing is
    ablated. Raises UnknownMetric, and UnpairedItems if conditions were not scored on the same
    documents.
    """
    known_metric(metric)
    base = {(c.mask, c.generated): c for c in conditions if c.recipe is None}
    finetuned = [c for c in conditions if c.recipe is not None and c.mask != CAUSAL]
    rows = []
    for after in sorted(finetuned, key=lambda c: (c.recipe, c.mask, c.seed, c.generated)):
        kind = after.generated
        used = (base[CAUSAL, kind], base[after.mask, kind], after)
        scored = after.correct[EXACT_MATCH if kind else metric]
        counts = {task: _counts(paired(used, metric_of_row(task, metric), task)) for task in scored}
        shares = {task: count / count.sum() for task, count in counts.items()}
        for macro, tasks in macros(scored).items():
            counts[macro] = np.sum([counts[task] for task in tasks], axis=0)
            shares[macro] = np.mean([shares[task] for task in tasks], axis=0)
        leaks = (after.train_leaks, any(c.eval_leaks for c in used))
        for task, count in counts.items():
            known = (study, after.recipe, after.seed, after.mask, *leaks, task, count.sum())
            found = zip(PATTERNS, count, shares[task].round(9), strict=True)
            rows += [(*known, *pattern) for pattern in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def _counts(right: np.ndarray) -> np.ndarray:
    """Number of items with each pattern, [8], from `right`, [3, items] of 0/1."""
    return np.bincount(np.array([4, 2, 1]) @ right, minlength=len(PATTERNS))
