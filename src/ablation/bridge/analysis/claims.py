"""Decides the claims about a bridge from sample rows. No torch.

A claim has a rule, whose thresholds are in the study's `claims:` block, and a value with its
interval. Its decision is `supported`, `refuted`, or `open` if the rows do not decide it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd

from ablation.bridge.analysis.comparisons import (
    compare,
    compare_one_seed,
    compare_these_seeds,
    compare_with_zero,
    trend,
)
from ablation.bridge.analysis.costs import latency_ratios
from ablation.bridge.analysis.samples import Samples
from ablation.config.bridge_blocks import Claims
from ablation.vocabulary.bridge import AGNOSTIC, BEATS_BOTH, FORWARD, KEEPS_TARGET, SOURCE_FREE

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
    "clusters",
    "design_effect",
    "verdict",
)


def decide(low: float, high: float, p: float, limit: float, threshold: float = 0.0) -> str:
    """The decision of an interval: open unless p is below `limit` and it excludes `threshold`."""
    if p < limit and low > threshold:
        return "supported"
    return "refuted" if p < limit and high < threshold else "open"


def claims_table(
    samples: Samples,
    costs: pd.DataFrame,
    claims: Claims,
    frozen: pd.DataFrame,
    study: str,
    confidence: float,
) -> pd.DataFrame:
    """One row a claim and regime.

    `costs` are the rows of `costs.flatten`, and `frozen` those of `freeze_table`. `clusters` is the
    number of clusters of the test questions, empty where the questions are independent.
    """
    full, k, limit = claims.all_fixes, claims.soft_tokens, claims.p
    rows: list[dict] = []

    def add(
        claim: str, regime: str, rule: str, read: str, found: Mapping[str, float], decision: str
    ) -> None:
        values = {n: found.get(n) for n in ("low", "high", "p", "design_effect")}
        facts = {"study": study, "claim": claim, "regime": regime, "rule": rule, "rows": read}
        clusters = samples.clusters(regime)
        if clusters is not None and "design_effect" in found:
            values["clusters"] = len(np.unique(clusters))
        rows.append({**facts, "value": found.get("difference"), **values, "verdict": decision})

    def better(claim: str, regime: str, before: np.ndarray, other: str) -> None:
        bridged = samples.right(regime, full, k)
        clusters = samples.clusters(regime)
        found = compare(bridged, before, confidence, clusters)
        against = np.broadcast_to(before, bridged.shape)
        found["p"] = max(
            compare_one_seed(own, b, confidence, clusters)
            for own, b in zip(bridged, against, strict=True)
        )
        signs = {bool(d > 0) for d in (bridged - against).mean(axis=1)}
        decision = "open"
        if found["p"] < limit and len(signs) == 1:
            decision = "supported" if signs == {True} else "refuted"
        test = "McNemar" if clusters is None else "cluster-robust"
        rule = f"bridged - {other} > 0 in every seed, {test} p < {limit} in each"
        add(claim, regime, rule, f"{full} K={k}; {other}", found, decision)

    regimes = sorted({regime for regime, recipe, _ in samples.kinds() if recipe == full})
    for regime in regimes:
        alone = partial(samples.right_alone, regime, direction=FORWARD)
        for model in ("source", "target"):
            better(f"beats the {model} alone", regime, alone(f"{model}_alone"), f"{model} alone")
        better("beats as many tokens of text", regime, alone("token_budget", k=k), "token budget")
        better(
            "beats a text answer of no more bytes", regime, alone("text_answer", k=k), "text answer"
        )
        better("soft tokens beat a text draft", regime, alone("cascade"), "cascade")
        better("the source matters", regime, _source_free(samples, regime, k), "source-free prompt")
        _controls(samples, regime, claims, confidence, add)
        _stability(samples, regime, claims, confidence, add)
        _compression(samples, regime, claims, confidence, add)
        _compresses(samples, regime, claims, confidence, add)
        _freeze(frozen, regime, claims, add)
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
    free, clusters = _source_free(samples, regime, k), samples.clusters(regime)
    found = compare_these_seeds(shuffled, free, confidence, clusters)
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
    clusters = samples.clusters(regime)
    found = compare(with_fixes, without, confidence, clusters)
    limit, least = claims.p, claims.final_accuracy
    bar = np.full((1, with_fixes.shape[1]), least)
    level = compare(with_fixes, bar, confidence, clusters)
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
    ks, clusters = _swept(samples, regime, full), samples.clusters(regime)
    if len(ks) < 2:
        return
    found = trend([samples.right(regime, full, k) for k in ks], ks, confidence, clusters)
    decision = decide(found["low"], found["high"], found["p"], 0.05)
    rule = "slope of accuracy on log2 K > 0 over questions and seeds, p < .05"
    read = f"{full} K={','.join(map(str, ks))}"
    add("quality trades against compression", regime, rule, read, found, decision)
    target = samples.right_alone(regime, "target_alone", FORWARD)
    share = claims.share_of_target
    kept = compare(samples.right(regime, full, ks[-1]), share * target, confidence, clusters)
    rule = f"bridged at K={ks[-1]} at least {share} of target-alone, with its interval"
    decision = "supported" if kept["low"] >= 0 else "refuted" if kept["high"] < 0 else "open"
    read = f"{full} K={ks[-1]}; target alone"
    add("the largest K keeps the quality", regime, rule, read, kept, decision)


def _swept(samples: Samples, regime: str, recipe: str) -> list[int]:
    return sorted(k for r, own, k in samples.kinds() if r == regime and own == recipe)


def _compresses(
    samples: Samples, regime: str, claims: Claims, confidence: float, add: AddRow
) -> None:
    """Whether soft tokens hold a text in fewer tokens, and not only the answer to a question.

    A source that has read the question may hand on its answer, so only a query-agnostic regime can
    decide the claim. In other regimes it is open, and the value is the difference from the source's
    answer as text.
    """
    full, k = claims.all_fixes, _swept(samples, regime, claims.all_fixes)[-1]
    if regime in AGNOSTIC:
        full, k = claims.context_recipe, claims.context_soft_tokens
    bridged, clusters = samples.right(regime, full, k), samples.clusters(regime)
    alone = partial(samples.right_alone, regime, direction=FORWARD)
    if regime not in AGNOSTIC:
        found = compare(bridged, alone("text_answer", k=k), confidence, clusters)
        rule = "not decided here: the source has read the question; value: bridged - text answer"
        add("it compresses a text", regime, rule, f"{full} K={k}; text answer", found, "open")
        return
    share = claims.share_of_target
    kept = compare(bridged, share * alone("target_alone"), confidence, clusters)
    budget = compare(bridged, alone("token_budget", k=k), confidence, clusters)
    tokens = samples.rows_alone(regime, "target_alone", FORWARD).question_tokens.mean()
    decision = "open"
    if kept["high"] < 0 or tokens <= k:
        decision = "refuted"
    elif kept["low"] >= 0 and budget["low"] > 0:
        decision = "supported"
    rule = (
        f"the source reads {tokens:.1f} tokens before the question is known; bridged at K={k} is "
        f"at least {share} of target-alone and above {k} tokens of text, with intervals"
    )
    add("it compresses a text", regime, rule, f"{full} K={k}; target alone", kept, decision)


def _freeze(frozen: pd.DataFrame, regime: str, claims: Claims, add: AddRow) -> None:
    own = frozen[frozen.regime == regime]
    if own.empty:
        return
    passes, first = own.passes == "true", own.iloc[0]
    bars = {
        KEEPS_TARGET: f"at least {claims.share_of_target} of target-alone",
        BEATS_BOTH: f"above both models alone, p < {claims.p}",
    }
    rule = (
        f"each of {len(own)} frozen cells is {bars[first.bar]}; a recipe of which one cell in "
        f"{round(1 / first.bad_share)} is bad passes with probability "
        f"{first.chance_of_a_bad_recipe:.3f}"
    )
    add(
        "every frozen cell passes",
        regime,
        rule,
        f"freeze.csv: {first.recipe} K={first.k}",
        {"difference": passes.mean()},
        "supported" if passes.all() else "refuted",
    )


def _costs(costs: pd.DataFrame, regime: str, limit: float, confidence: float, add: AddRow) -> None:
    own = costs[costs.regime == regime]
    for claim, models, column in (
        ("the target's cache is smaller", "KV cache of the answering model", "kv_cache_mb"),
        ("both caches together are smaller", "KV caches of source and target", "both_kv_mb"),
    ):
        wide = own.pivot(index="sample_id", columns="arm", values=column)
        saved = wide.target_alone - wide.latent
        add(
            claim,
            regime,
            f"{models}: target-alone - latent > 0 MiB on every question",
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
