"""Per-sample costs -> the tables of inference. Pure: pandas and numpy, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

MEASURED = ("kv_cache_mb", "latency_sec")


def flat(samples: Mapping[str, Sequence[Mapping]], arms: Sequence[str]) -> pd.DataFrame:
    """{regime: objects of inference_per_sample.jsonl} -> one row a regime, question and arm."""
    rows = [
        {"regime": regime, "sample_id": sample["sample_id"], "arm": arm, **sample[arm]}
        for regime, found in samples.items()
        for sample in found
        for arm in arms
    ]
    return pd.DataFrame(rows)


def inference_table(frame: pd.DataFrame, study: str) -> pd.DataFrame:
    """One row a regime and arm: what it costs, what it is worth, and what it saves."""
    rows = []
    for (regime, arm), own in frame.groupby(["regime", "arm"], sort=False):
        full = frame[(frame.regime == regime) & (frame.arm == "target_alone")]
        saved = full.kv_cache_mb.mean() - own.kv_cache_mb.mean()
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
                    for how in ("mean", "median", "min", "max")
                },
                "kv_formula_mb_mean": own.kv_formula_mb.mean(),
                "kv_as_formula": str(bool((own.kv_cache_mb == own.kv_formula_mb).all())).lower(),
                "source_kv_mb_mean": own.source_kv_mb.mean(),
                "peak_mem_mb_max": own.peak_mem_mb.max(),
                "kv_saved_mb": saved,
                "kv_saved_share": saved / full.kv_cache_mb.mean(),
            }
        )
    return pd.DataFrame(rows)


def latency_table(frame: pd.DataFrame, study: str) -> pd.DataFrame:
    """Latency by the tokens that were read and said."""
    rows = []
    for (regime, arm, read, said), own in frame.groupby(
        ["regime", "arm", "input_len", "output_len"], sort=True
    ):
        rows.append(
            {
                "study": study,
                "regime": regime,
                "arm": arm,
                "input_len": read,
                "output_len": said,
                "n": len(own),
                "latency_sec_median": own.latency_sec.median(),
                "latency_sec_min": own.latency_sec.min(),
                "latency_sec_max": own.latency_sec.max(),
            }
        )
    return pd.DataFrame(rows)


def faster(frame: pd.DataFrame, regime: str, arm: str, than: str) -> np.ndarray:
    """Ratio of latencies, question by question: below 1 where `arm` is the faster one."""
    own = frame[frame.regime == regime].pivot(
        index="sample_id", columns="arm", values="latency_sec"
    )
    return (own[arm] / own[than]).to_numpy()
