"""Which items a model got right, from its sample rows. Pure: scoring and tables agree by it."""

from __future__ import annotations

import pandas as pd


def item_correct(samples: pd.DataFrame, metric: str) -> dict[str, pd.Series]:
    """Per task, 1 where the best-scored choice of an item is its gold choice; ties: the first."""
    scale = {
        "acc": 1,
        "acc_norm": samples.characters,
        "acc_bytes": samples.bytes,
        "acc_token": samples.tokens,
    }[metric]
    scored = samples.assign(score=samples.loglikelihood / scale)
    scored = scored.sort_values(["task", "doc_id", "choice"], kind="stable", ignore_index=True)
    best = scored.loc[scored.groupby(["task", "doc_id"], sort=True).score.idxmax()]
    best = best.assign(right=(best.choice == best.gold).astype(int))
    return {task: t.set_index("doc_hash").right for task, t in best.groupby("task", sort=True)}
