"""Tables of the 42 published bridge runs: their logged accuracies, and which test a bridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import special

# Why a published run does not test a bridge, by the key in resources/published/bridge.json.
WHY_NOT = {
    "answer_leak": "the target was shown the gold solution, and its continuation was scored",
    "one_gold_for_all": "the gold answer was read from the prompt: 12 on every question",
    "invalid_equals_invalid": "no answer was extracted on either side, and that counted as right",
    "text_given": "the target also read the whole question: no bridge is needed to answer",
    "header_overwritten": "soft tokens were added to the prompt's first tokens, text was given",
}


def difference_interval(right: Sequence[int], n: Sequence[int], confidence: float) -> dict:
    """The difference of two independent proportions (first minus second) and its interval.

    Source: A. Agresti, B. Caffo, Am. Stat. 54 (2000) 280-288: one success and one failure are
    added to each sample.
    """
    z = float(special.ndtri((1 + confidence) / 2))
    p = [(r + 1) / (m + 2) for r, m in zip(right, n, strict=True)]
    spread = z * np.sqrt(sum(q * (1 - q) / (m + 2) for q, m in zip(p, n, strict=True)))
    value = right[0] / n[0] - right[1] / n[1]
    middle = p[0] - p[1]
    return {"difference": value, "low": middle - spread, "high": middle + spread}


def runs_table(runs: Sequence[Mapping]) -> pd.DataFrame:
    """One row a run: its peak and final accuracy, their difference, whether it tests a bridge."""
    rows = []
    for run in runs:
        final = run["final"]
        rows.append(
            {
                **{n: run[n] for n in ("run", "commit", "config_sha256", "soft_tokens", "mode")},
                **{n: run[n] for n in ("data", "n", "source", "target", "peak", "peak_step")},
                "final": final,
                "degradation": None if final is None else round(run["peak"] - final, 6),
                "tests_a_bridge": str(run["fault"] is None).lower(),
                "why_not": WHY_NOT[run["fault"]] if run["fault"] else None,
            }
        )
    return pd.DataFrame(rows)


def repeats_table(runs: Sequence[Mapping], confidence: float) -> pd.DataFrame:
    """One row a pair of runs of one configuration, which were published as ablations: the
    differences show the noise between repeats."""
    by_config: dict[str, list[Mapping]] = {}
    for run in runs:
        by_config.setdefault(run["config_sha256"], []).append(run)
    rows = []
    for config, same in by_config.items():
        for one, other in combinations(same, 2):
            for step in ("peak", "final"):
                if one[step] is None or other[step] is None:
                    continue
                n = (one["n"], other["n"])
                right = [round(r[step] * m) for r, m in zip((one, other), n, strict=True)]
                rows.append(
                    {
                        "config_sha256": config,
                        "run": one["run"],
                        "against": other["run"],
                        "step": step,
                        "n": n[0],
                        "accuracy": one[step],
                        "against_accuracy": other[step],
                        **difference_interval(right, n, confidence),
                    }
                )
    return pd.DataFrame(rows)
