"""From sample rows to accuracies. Pure: scoring and tables compute them here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

import pandas as pd

from ablation.names import METRICS, macros

Correct = Mapping[str, Mapping[str, pd.Series]]  # metric -> task -> 0/1 indexed by doc_hash


def item_correct(samples: pd.DataFrame, metric: str) -> dict[str, pd.Series]:
    """Per task, 1 where the best-scored choice of an item is its gold choice; ties: the first.

    A choice without scored tokens (the published protocol has some) counts as one of one token.
    Raises ValueError for log-likelihoods that are NaN: the best choice would be one of the others.
    """
    name = "loglikelihood_float32" if metric == "acc_token_float32" else "loglikelihood"
    if (none := samples[name].isna()).any():
        first = samples[none].iloc[0]
        raise ValueError(
            f"{none.sum()} of {len(samples)} log-likelihoods are NaN, the first in {first.task}, "
            f"doc_id {first.doc_id}, choice {first.choice}: nothing can be said of this model. Its "
            "weights are not finite, or overflow in hardware.dtype: look at the checkpoint, or "
            "score it in float32"
        )
    scale = {"acc": 1, "acc_norm": samples.characters, "acc_bytes": samples.bytes}.get(
        metric, samples.tokens.clip(lower=1)
    )
    scored = samples.assign(score=samples[name] / scale)
    scored = scored.sort_values(["task", "doc_id", "choice"], kind="stable", ignore_index=True)
    best = scored.loc[scored.groupby(["task", "doc_id"], sort=True).score.idxmax()]
    best = best.assign(right=(best.choice == best.gold).astype(int))
    return {task: t.set_index("doc_hash").right for task, t in best.groupby("task", sort=True)}


def correct_by_metric(samples: pd.DataFrame) -> Correct:
    """`item_correct` under every metric."""
    return {metric: item_correct(samples, metric) for metric in METRICS}


def truncated_items(samples: pd.DataFrame) -> dict[str, int]:
    """Per task, the items whose prompt lost tokens from the left; tasks without any are absent."""
    return samples[samples.truncated].groupby("task").doc_id.nunique().to_dict()


def accuracies(correct: Correct, truncated: Mapping[str, int]) -> dict[str, dict[str, float | int]]:
    """{task: {acc, ..., acc_token_float32, n, truncated}}, and the same under each macro.

    `n` items, `truncated` of them with a prompt that lost tokens. A macro's accuracies are
    unweighted means over the tasks of its protocol, its counts sums.
    """
    found = {}
    for task, right in next(iter(correct.values())).items():
        found[task] = {metric: float(correct[metric][task].mean()) for metric in correct}
        found[task] |= {"n": len(right), "truncated": int(truncated.get(task, 0))}
    for macro, names in macros(found).items():
        tasks = [found[name] for name in names]
        found[macro] = {metric: mean(task[metric] for task in tasks) for metric in correct}
        found[macro] |= {count: sum(task[count] for task in tasks) for count in ("n", "truncated")}
    return found


def metrics_from_samples(samples: pd.DataFrame) -> dict[str, dict[str, float | int]]:
    """`accuracies` of one condition's sample rows: what metrics.json holds under `tasks`.

    Right is the choice with the highest log-likelihood: summed, per character, per byte, per
    token, and per token without rounding to `logits_dtype`.
    """
    return accuracies(correct_by_metric(samples), truncated_items(samples))
