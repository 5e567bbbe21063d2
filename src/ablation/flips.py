"""What became of each item: right or wrong before the ablation, under it, and after finetuning.

Pure: conditions in, a table out. Accuracies say how many items came back; these counts say whether
they are the ones that were lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ablation.conditions import Condition, paired
from ablation.names import macros, metric_of

# Right (R) or wrong (W) for B, A and P: base under causal, base under the mask, finetuned under it.
PATTERNS = ("WWW", "WWR", "WRW", "WRR", "RWW", "RWR", "RRW", "RRR")
COLUMNS = [
    *("study", "recipe", "seed", "mask", "train_leaks", "eval_leaks", "task", "n"),
    *("pattern", "items", "share"),
]


def flips_table(study: str, conditions: Sequence[Condition], metric: str) -> pd.DataFrame:
    """Counts of the eight patterns per recipe, seed, ablated mask and task, with `COLUMNS`.

    `share` is items / n; under a macro, the unweighted mean of its tasks' shares, so that
    shares add up to the macro accuracies. Under `causal` nothing is ablated: no rows.
    Raises UnpairedItems when conditions were not scored on the same documents.
    """
    base = {c.mask: c for c in conditions if c.recipe is None}
    finetuned = [c for c in conditions if c.recipe is not None and c.mask != "causal"]
    rows = []
    for after in sorted(finetuned, key=lambda c: (c.recipe, c.mask, c.seed)):
        used = (base["causal"], base[after.mask], after)
        counts = {
            task: _counts(paired(used, metric_of(task, metric), task))
            for task in after.correct[metric]
        }
        shares = {task: count / count.sum() for task, count in counts.items()}
        for macro, tasks in macros(after.correct[metric]).items():
            counts[macro] = np.sum([counts[task] for task in tasks], axis=0)
            shares[macro] = np.mean([shares[task] for task in tasks], axis=0)
        leaks = (after.train_leaks, any(c.eval_leaks for c in used))
        for task, count in counts.items():
            known = (study, after.recipe, after.seed, after.mask, *leaks, task, count.sum())
            found = zip(PATTERNS, count, shares[task].round(9), strict=True)
            rows += [(*known, *pattern) for pattern in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def _counts(right: np.ndarray) -> np.ndarray:
    """How many columns of `right`, [3, items] of 0/1, have each pattern: [8]."""
    return np.bincount(np.array([4, 2, 1]) @ right, minlength=len(PATTERNS))
