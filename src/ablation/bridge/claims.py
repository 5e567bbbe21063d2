"""What is claimed of a bridge, the rows that decide it, and the verdict. Pure: no torch.

A claim has a rule (thresholds in the study's `claims:` block), a value with its interval, and one
of three verdicts: supported, refuted, or open where the rows do not decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from ablation.bridge.costs import faster
from ablation.bridge.prompts import SOURCE_FREE
from ablation.bridge.tables import Samples, change, of_mean, of_these_seeds, trend
from ablation.statistics import mcnemar

COLUMNS = (
    "study",
    "claim",
    "regime",
    "rule",
    "rows",
    "value",
    "low",
    "high",
    "p",
    "verdict",
)


def decided(low: float, high: float, p: float, limit: float, threshold: float = 0.0) -> str:
    """Supported or refuted when the interval is on one side and p below `limit`, else open."""
    if p < limit and low > threshold:
        return "supported"
    return "refuted" if p < limit and high < threshold else "open"


def claims_table(
    samples: Samples, costs: pd.DataFrame, claims: Mapping, study: str, confidence: float
) -> pd.DataFrame:
    """One row a claim and regime."""
    full, k, limit = claims["all_fixes"], claims["soft_tokens"], claims["p"]
    rows: list[dict] = []

    def add(claim: str, regime: str, rule: str, read: str, found: Mapping, verdict: str) -> None:
        names = {"difference": "value", "low": "low", "high": "high", "p": "p"}
        values = {names[n]: found.get(n) for n in names}
        said = {"study": study, "claim": claim, "regime": regime, "rule": rule, "rows": read}
        rows.append({**said, **values, "verdict": verdict})

    def better(claim: str, regime: str, before: np.ndarray, other: str) -> None:
        bridged = samples.right(regime, full, k)
        found = change(bridged, before, confidence)
        against = np.broadcast_to(before, bridged.shape)
        found["p"] = max(mcnemar(b, own) for b, own in zip(against, bridged, strict=True))
        signs = {bool(d > 0) for d in (bridged - against).mean(axis=1)}
        verdict = "open"
        if found["p"] < limit and len(signs) == 1:
            verdict = "supported" if signs == {True} else "refuted"
        rule = f"bridged - {other} > 0 in every seed, McNemar p < {limit} in each"
        add(claim, regime, rule, f"{full} K={k}; {other}", found, verdict)

    regimes = sorted({regime for regime, recipe, _ in samples.kinds() if recipe == full})
    for regime in regimes:
        alone = partial(samples.right_alone, regime, direction="forward")
        for model in ("source", "target"):
            better(f"beats the {model} alone", regime, alone(f"{model}_alone"), f"{model} alone")
        better("beats as many tokens of text", regime, alone("token_budget", k=k), "token budget")
        better("soft tokens beat a text draft", regime, alone("cascade"), "cascade")
        better("the source matters", regime, _free(samples, regime, k), "source-free prompt")
        _controls(samples, regime, claims, confidence, add)
        _stability(samples, regime, claims, confidence, add)
        _compression(samples, regime, claims, confidence, add)
        _costs(costs, regime, limit, confidence, add)
    return pd.DataFrame(rows, columns=COLUMNS)


def _free(samples: Samples, regime: str, k: int) -> np.ndarray:
    return samples.right(regime, SOURCE_FREE, k)


def _controls(samples: Samples, regime: str, claims: Mapping, confidence: float, add) -> None:
    """What must hold of any bridge before its accuracy means anything."""
    full, k, within = claims["all_fixes"], claims["soft_tokens"], claims["same_within"]
    shuffled = samples.right(regime, full, k, "shuffled_source")
    found = of_these_seeds(shuffled, _free(samples, regime, k), confidence)
    verdict = "open"
    if -within <= found["low"] and found["high"] <= within:
        verdict = "supported"
    elif found["low"] > within or found["high"] < -within:
        verdict = "refuted"
    rule = f"|shuffled source - source-free prompt| <= {within}, with its interval over questions"
    read = f"{full}, {SOURCE_FREE} K={k}"
    add("another question's source says nothing", regime, rule, read, found, verdict)
    same = samples.same_words(regime, "identity", "target_alone")
    add(
        "its own embeddings say what the text says",
        regime,
        "identity and target-alone say the same on every question, word for word",
        "identity; target alone",
        {"difference": float(same)},
        "supported" if same else "refuted",
    )


def _stability(samples: Samples, regime: str, claims: Mapping, confidence: float, add) -> None:
    full, none, k = claims["all_fixes"], claims["no_fixes"], claims["soft_tokens"]
    with_fixes, without = (samples.right(regime, r, k, "bridged_last") for r in (full, none))
    found = change(with_fixes, without, confidence)
    limit, least = claims["p"], claims["final_accuracy"]
    level = change(with_fixes, np.full((1, with_fixes.shape[1]), least), confidence)
    verdict = decided(found["low"], found["high"], found["p"], limit)
    if level["high"] < 0:
        verdict = "refuted"
    elif level["low"] <= 0 and verdict == "supported":
        verdict = "open"
    rule = f"last step: {full} above {least}, with its interval, and above {none}, p < {limit}"
    add("stability fixes work", regime, rule, f"{full}, {none} K={k}, last weights", found, verdict)


def _compression(samples: Samples, regime: str, claims: Mapping, confidence: float, add) -> None:
    full = claims["all_fixes"]
    ks = sorted(k for r, recipe, k in samples.kinds() if r == regime and recipe == full)
    if len(ks) < 2:
        return
    found = trend([samples.right(regime, full, k) for k in ks], ks, confidence)
    verdict = decided(found["low"], found["high"], found["p"], 0.05)
    rule = "mean slope of correctness on log2 K > 0, p < .05"
    read = f"{full} K={','.join(map(str, ks))}"
    add("quality trades against compression", regime, rule, read, found, verdict)
    target = samples.right_alone(regime, "target_alone", "forward")
    share = claims["share_of_target"]
    kept = change(samples.right(regime, full, ks[-1]), share * target, confidence)
    rule = f"bridged at K={ks[-1]} at least {share} of target-alone, with its interval"
    verdict = "supported" if kept["low"] >= 0 else "refuted" if kept["high"] < 0 else "open"
    read = f"{full} K={ks[-1]}; target alone"
    add("the largest K keeps the quality", regime, rule, read, kept, verdict)


def _costs(costs: pd.DataFrame, regime: str, limit: float, confidence: float, add) -> None:
    own = costs[costs.regime == regime]
    wide = own.pivot(index="sample_id", columns="arm", values="kv_cache_mb")
    saved = wide.target_alone - wide.latent
    add(
        "the target's cache is smaller",
        regime,
        "KV cache of target-alone - latent > 0 MiB on every question",
        "inference_per_sample.jsonl",
        {"difference": saved.mean(), "low": saved.min(), "high": saved.max()},
        "supported" if saved.min() > 0 else "refuted" if saved.max() < 0 else "open",
    )
    ratio = faster(costs, regime, "latent", "cascade")
    log = of_mean(np.log(ratio), confidence)
    verdict = decided(-log["high"], -log["low"], log["p"], limit)
    found = {n: float(np.exp(log[n])) for n in ("difference", "low", "high")} | {"p": log["p"]}
    rule = f"latency of latent / cascade < 1 (geometric mean), p < {limit}"
    add("faster than the cascade", regime, rule, "inference_per_sample.jsonl", found, verdict)
