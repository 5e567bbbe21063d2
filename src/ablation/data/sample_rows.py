"""Sample rows: one row per item and choice. All accuracies are computed from them."""

from __future__ import annotations

import pandas as pd

# {column: its type}. The three hashes are those that lm_eval logs; all rows of an item share them.
SAMPLE_COLUMNS = {
    "task": "string",
    "doc_id": "int64",
    "doc_hash": "string",
    "prompt_hash": "string",
    "target_hash": "string",
    "choice": "int64",  # index of the choice, in the task's order
    "gold": "int64",  # index of the right choice
    "loglikelihood": "float64",  # nats
    "loglikelihood_float32": "float64",  # nats, from logits that were not rounded to `logits_dtype`
    "is_greedy": "bool",
    "tokens": "int64",  # the number of scored tokens of the continuation
    "characters": "int64",  # of the choice without the delimiter before it, as lm_eval counts
    "bytes": "int64",
    "cluster": "string",  # items of one cluster are no independent draws; by default, the doc_hash
    "truncated": "bool",  # whether the prompt was shortened from the left
    "mask": "string",
    "checkpoint": "string",  # the folder of the scored model's manifest
}


def refuse_nan(samples: pd.DataFrame, column: str = "loglikelihood") -> None:
    """Raise ValueError if a log-likelihood is NaN: then another choice would seem the best."""
    missing = samples[samples[column].isna()]
    if missing.empty:
        return
    first = missing.iloc[0]
    raise ValueError(
        f"{len(missing)} of {len(samples)} log-likelihoods are NaN, the first in {first.task}, "
        f"doc_id {first.doc_id}, choice {first.choice}. The weights of this model are not "
        "finite, or its activations overflow in hardware.dtype. Inspect the checkpoint, or set "
        "hardware.dtype to float32."
    )
