"""Which items a model got right, from its sample rows. Pure: scoring and tables agree by it."""

from __future__ import annotations

import pandas as pd


def item_correct(samples: pd.DataFrame, metric: str) -> dict[str, pd.Series]:
    """Per task, 1 where the best-scored choice of an item is its gold choice; ties: the first.

    A choice without scored tokens (`protocol: published` has some) counts as one of one token.
    """
    name = "loglikelihood_float32" if metric == "acc_token_float32" else "loglikelihood"
    scale = {"acc": 1, "acc_norm": samples.characters, "acc_bytes": samples.bytes}.get(
        metric, samples.tokens.clip(lower=1)
    )
    scored = samples.assign(score=samples[name] / scale)
    scored = scored.sort_values(["task", "doc_id", "choice"], kind="stable", ignore_index=True)
    best = scored.loc[scored.groupby(["task", "doc_id"], sort=True).score.idxmax()]
    best = best.assign(right=(best.choice == best.gold).astype(int))
    return {task: t.set_index("doc_hash").right for task, t in best.groupby("task", sort=True)}
