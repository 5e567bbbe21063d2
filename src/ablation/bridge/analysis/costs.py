"""Computes the tables of costs from the costs of each question. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

MEASURED = ("kv_cache_mb", "both_kv_mb", "latency_sec")
STATISTICS = ("mean", "median", "min", "max")


def flatten(samples: Mapping[str, Sequence[Mapping]], arms: Sequence[str]) -> pd.DataFrame:
    """One row a regime, question and arm, from {regime: objects of inference_per_sample.jsonl}."""
    rows = [
        {"regime": regime, "sample_id": sample["sample_id"], "arm": arm, **sample[arm]}
        for regime, found in samples.items()
        for sample in found
        for arm in arms
    ]
    return pd.DataFrame(rows)


def inference_table(frame: pd.DataFrame, study: str) -> pd.DataFrame:
    """One row a regime and arm: its quality, its costs, and what it saves of KV caches.

    Savings are those against target-alone: of the answering model's cache, and of both models'.
    """
    rows = []
    for (regime, arm), own in frame.groupby(["regime", "arm"], sort=False):
        full = frame[(frame.regime == regime) & (frame.arm == "target_alone")]
        saved = full.kv_cache_mb.mean() - own.kv_cache_mb.mean()
        both_saved = full.both_kv_mb.mean() - own.both_kv_mb.mean()
        rows.append(
            {
                "study": study,
                "regime": regime,
                "arm": arm,
                "num_samples": len(own),
                "em": own.em.mean(),
                "f1": own.f1.mean(),
                "input_len": own.input_len.mean(),
                "output_len": own.output_len.mean(),
                **{
                    f"{name}_{how}": getattr(own[name], how)()
                    for name in MEASURED
                    for how in STATISTICS
                },
                "kv_formula_mb_mean": own.kv_formula_mb.mean(),
                "kv_as_formula": str(bool((own.kv_cache_mb == own.kv_formula_mb).all())).lower(),
                "source_kv_mb_mean": own.source_kv_mb.mean(),
                "message_bytes_mean": own.message_bytes.mean(),
                "message_bytes_max": own.message_bytes.max(),
                "peak_mem_mb_max": own.peak_mem_mb.max(),
                "kv_saved_mb": saved,
                "kv_saved_share": saved / full.kv_cache_mb.mean(),
                "both_kv_saved_mb": both_saved,
                "both_kv_saved_share": both_saved / full.both_kv_mb.mean(),
            }
        )
    return pd.DataFrame(rows)


def latency_table(frame: pd.DataFrame, study: str) -> pd.DataFrame:
    """Latency by arm and by the numbers of tokens that were read and generated."""
    rows = []
    for (regime, arm, read, generated), own in frame.groupby(
        ["regime", "arm", "input_len", "output_len"], sort=True
    ):
        rows.append(
            {
                "study": study,
                "regime": regime,
                "arm": arm,
                "input_len": read,
                "output_len": generated,
                "n": len(own),
                "latency_sec_median": own.latency_sec.median(),
                "latency_sec_min": own.latency_sec.min(),
                "latency_sec_max": own.latency_sec.max(),
            }
        )
    return pd.DataFrame(rows)


def latency_ratios(frame: pd.DataFrame, regime: str, arm: str, other: str) -> np.ndarray:
    """The latency of `arm` divided by that of `other` for each question [questions]."""
    own = frame[frame.regime == regime].pivot(
        index="sample_id", columns="arm", values="latency_sec"
    )
    return (own[arm] / own[other]).to_numpy()
