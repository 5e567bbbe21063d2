"""Decides the claims about a bridge from sample rows. No torch.

A claim has a rule, whose thresholds are in the study's `claims:` block, and a value with its
interval. Its decision is `supported`, `refuted`, or `open` if the rows do not decide it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd

from ablation.analysis.statistics import mcnemar
from ablation.bridge.analysis.comparisons import (
    compare,
    compare_these_seeds,
    compare_with_zero,
    trend,
)
from ablation.bridge.analysis.costs import latency_ratios
from ablation.bridge.analysis.samples import Samples
from ablation.config.bridge_blocks import Claims
from ablation.vocabulary.bridge import FORWARD, SOURCE_FREE

# Adds a row: claim, regime, rule, the rows that it reads, {difference, low, high, p}, decision.
AddRow = Callable[[str, str, str, str, Mapping[str, float], str], None]

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


def decide(low: float, high: float, p: float, limit: float, threshold: float = 0.0) -> str:
    """The decision of an interval: open unless p is below `limit` and it excludes `threshold`."""
    if p < limit and low > threshold:
        return "supported"
    return "refuted" if p < limit and high < threshold else "open"


def claims_table(
    samples: Samples, costs: pd.DataFrame, claims: Claims, study: str, confidence: float
) -> pd.DataFrame:
    """One row a claim and regime. `costs` are the rows of `costs.flatten`."""
    full, k, limit = claims.all_fixes, claims.soft_tokens, claims.p
    rows: list[dict] = []

    def add(
        claim: str, regime: str, rule: str, read: str, found: Mapping[str, float], decision: str
    ) -> None:
        names = {"difference": "value", "low": "low", "high": "high", "p": "p"}
        values = {names[n]: found.get(n) for n in names}
        facts = {"study": study, "claim": claim, "regime": regime, "rule": rule, "rows": read}
        rows.append({**facts, **values, "verdict": decision})

    def better(claim: str, regime: str, before: np.ndarray, other: str) -> None:
        bridged = samples.right(regime, full, k)
        found = compare(bridged, before, confidence)
        against = np.broadcast_to(before, bridged.shape)
        found["p"] = max(mcnemar(b, own) for b, own in zip(against, bridged, strict=True))
        signs = {bool(d > 0) for d in (bridged - against).mean(axis=1)}
        decision = "open"
        if found["p"] < limit and len(signs) == 1:
            decision = "supported" if signs == {True} else "refuted"
        rule = f"bridged - {other} > 0 in every seed, McNemar p < {limit} in each"
        add(claim, regime, rule, f"{full} K={k}; {other}", found, decision)

    regimes = sorted({regime for regime, recipe, _ in samples.kinds() if recipe == full})
    for regime in regimes:
        alone = partial(samples.right_alone, regime, direction=FORWARD)
        for model in ("source", "target"):
            better(f"beats the {model} alone", regime, alone(f"{model}_alone"), f"{model} alone")
        better("beats as many tokens of text", regime, alone("token_budget", k=k), "token budget")
        better("soft tokens beat a text draft", regime, alone("cascade"), "cascade")
        better("the source matters", regime, _source_free(samples, regime, k), "source-free prompt")
        _controls(samples, regime, claims, confidence, add)
        _stability(samples, regime, claims, confidence, add)
        _compression(samples, regime, claims, confidence, add)
        _costs(costs, regime, limit, confidence, add)
    return pd.DataFrame(rows, columns=COLUMNS)


def _source_free(samples: Samples, regime: str, k: int) -> np.ndarray:
    return samples.right(regime, SOURCE_FREE, k)


def _controls(
    samples: Samples, regime: str, claims: Claims, confidence: float, add: AddRow
) -> None:
    """The claims that must hold for any bridge before its accuracy has a meaning."""
    full, k, within = claims.all_fixes, claims.soft_tokens, claims.same_within
    shuffled = samples.right(regime, full, k, "shuffled_source")
    found = compare_these_seeds(shuffled, _source_free(samples, regime, k), confidence)
    decision = "open"
    if -within <= found["low"] and found["high"] <= within:
        decision = "supported"
    elif found["low"] > within or found["high"] < -within:
        decision = "refuted"
    rule = f"|shuffled source - source-free prompt| <= {within}, with its interval over questions"
    read = f"{full}, {SOURCE_FREE} K={k}"
    add("another question's source says nothing", regime, rule, read, found, decision)
    same = samples.same_texts(regime, "identity", "target_alone")
    add(
        "its own embeddings say what the text says",
        regime,
        "identity and target-alone say the same on every question, word for word",
        "identity; target alone",
        {"difference": float(same)},
        "supported" if same else "refuted",
    )


def _stability(
    samples: Samples, regime: str, claims: Claims, confidence: float, add: AddRow
) -> None:
    full, none, k = claims.all_fixes, claims.no_fixes, claims.soft_tokens
    with_fixes, without = (samples.right(regime, r, k, "bridged_last") for r in (full, none))
    found = compare(with_fixes, without, confidence)
    limit, least = claims.p, claims.final_accuracy
    level = compare(with_fixes, np.full((1, with_fixes.shape[1]), least), confidence)
    decision = decide(found["low"], found["high"], found["p"], limit)
    if level["high"] < 0:
        decision = "refuted"
    elif level["low"] <= 0 and decision == "supported":
        decision = "open"
    rule = f"last step: {full} above {least}, with its interval, and above {none}, p < {limit}"
    add(
        "stability fixes work", regime, rule, f"{full}, {none} K={k}, last weights", found, decision
    )


def _compression(
    samples: Samples, regime: str, claims: Claims, confidence: float, add: AddRow
) -> None:
    full = claims.all_fixes
    ks = sorted(k for r, recipe, k in samples.kinds() if r == regime and recipe == full)
    if len(ks) < 2:
        return
    found = trend([samples.right(regime, full, k) for k in ks], ks, confidence)
    decision = decide(found["low"], found["high"], found["p"], 0.05)
    rule = "mean slope of correctness on log2 K > 0, p < .05"
    read = f"{full} K={','.join(map(str, ks))}"
    add("quality trades against compression", regime, rule, read, found, decision)
    target = samples.right_alone(regime, "target_alone", FORWARD)
    share = claims.share_of_target
    kept = compare(samples.right(regime, full, ks[-1]), share * target, confidence)
    rule = f"bridged at K={ks[-1]} at least {share} of target-alone, with its interval"
    decision = "supported" if kept["low"] >= 0 else "refuted" if kept["high"] < 0 else "open"
    read = f"{full} K={ks[-1]}; target alone"
    add("the largest K keeps the quality", regime, rule, read, kept, decision)


def _costs(costs: pd.DataFrame, regime: str, limit: float, confidence: float, add: AddRow) -> None:
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
    ratio = latency_ratios(costs, regime, "latent", "cascade")
    log = compare_with_zero(np.log(ratio), confidence)
    decision = decide(-log["high"], -log["low"], log["p"], limit)
    found = {n: float(np.exp(log[n])) for n in ("difference", "low", "high")} | {"p": log["p"]}
    rule = f"latency of latent / cascade < 1 (geometric mean), p < {limit}"
    add("faster than the cascade", regime, rule, "inference_per_sample.jsonl", found, decision)
