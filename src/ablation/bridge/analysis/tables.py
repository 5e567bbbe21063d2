"""Computes the tables of the second study from its sample rows. No torch.

Every number comes from rows of a sample file. The hash of the configuration is in each row of
`runs.csv`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ablation.bridge.analysis.comparisons import (
    Clusters,
    accuracy_interval,
    compare,
    compare_one_seed,
    compare_these_seeds,
    paired,
    share_interval,
)
from ablation.bridge.analysis.samples import ALONE, Samples
from ablation.config.bridge_blocks import Claims, Recipe
from ablation.training.early_stopping import MAX_STEPS
from ablation.vocabulary.bridge import (
    AGNOSTIC,
    CONTROLS,
    FORWARD,
    REGIMES,
    SOFT_BITS,
    SOFT_ONLY,
    SOURCE_FREE,
    SWAPPED,
    soft_token_bytes,
)

MIB = 2**20
# The audit rests on this, so each of its rows says it.
BUILT_LEAK = (
    "a built demonstration: three in ten of the micro target's pretraining texts echo their answer"
)


def runs_table(samples: Samples, study: str, confidence: float) -> pd.DataFrame:
    """One row a cell: its test accuracy at the step with the best dev accuracy, and its context."""
    rows = []
    for regime, recipe, k in samples.kinds():
        direction = samples.direction[recipe]
        alone = {arm: samples.right_alone(regime, arm, direction, k) for arm in ALONE}
        clusters = samples.clusters(regime)
        for seed in samples.every_seed:
            own = samples.cells.query(
                "regime == @regime and recipe == @recipe and k == @k and seed == @seed"
            )
            if not own.empty:
                cell = samples.summary.loc[[f"{regime}/{seed}/{recipe}-k{k}"]].iloc[0]
                rows.append(_run(own, cell, alone, clusters, study, confidence))
    return pd.DataFrame(rows)


def _run(
    own: pd.DataFrame,
    cell: pd.Series,
    alone: Mapping[str, np.ndarray],
    clusters: Clusters,
    study: str,
    confidence: float,
) -> dict:
    """The row of one cell: `own` are its sample rows, `cell` its summary."""
    best = own[(own.arm == "bridged") & (own.noise == 0)].sort_values("item")
    last = own[own.arm == "bridged_last"]
    right, n = best.correct.to_numpy(), len(best)
    low, high = share_interval(right, confidence, clusters)
    noises = own[own.arm == "bridged"].groupby("noise").correct.mean()
    return {
        "study": study,
        **{name: best.iloc[0][name] for name in ("regime", "recipe", "k", "seed", "config")},
        "direction": cell.direction,
        "mode": cell["mode"],
        "translator": cell.translator,
        "n": n,
        "accuracy": right.mean(),
        "accuracy_low": low,
        "accuracy_high": high,
        "f1": best.f1.mean(),
        "noise_sd": noises.std(ddof=1) if len(noises) > 1 else None,
        "last_accuracy": last.correct.mean(),
        "dev_peak": cell.dev_peak,
        "dev_final": cell.dev_final,
        "degradation": cell.dev_peak - cell.dev_final,
        "best_step": cell.best_step,
        "steps": cell.steps,
        "stop_reason": cell.stop_reason,
        "parameters": cell.parameters,
        **{arm: float(values.mean()) for arm, values in alone.items()},
        **{arm: _mean(own, arm) for arm in CONTROLS},
        **{
            f"p_{arm}": compare_one_seed(right, alone[arm][0], confidence, clusters)
            for arm in ("target_alone", "source_alone")
        },
        "clusters": n if clusters is None else len(np.unique(clusters)),
        "design_effect": compare(right[None], alone["target_alone"], confidence, clusters)[
            "design_effect"
        ],
        "unique_answers": best.answer.nunique(dropna=False),
        "invalid_answers": int(best.answer.isna().sum()),
        "empty_answers": int((best.text.str.strip() == "").sum()),
        "collapsed": str(best.answer.nunique(dropna=False) == 1).lower(),
        "tests_a_bridge": str(cell["mode"] == SOFT_ONLY).lower(),
    }


def _mean(own: pd.DataFrame, arm: str) -> float | None:
    rows = own[own.arm == arm]
    return None if rows.empty else rows.correct.mean()


def effects_table(samples: Samples, claims: Claims, study: str, confidence: float) -> pd.DataFrame:
    """One row a recipe and regime: its accuracy minus that of the recipe with all fixes."""
    rows, full, k = [], claims.all_fixes, claims.soft_tokens
    for regime, recipe, own_k in samples.kinds():
        if own_k != k or recipe == full:
            continue
        for arm in ("bridged", "bridged_last"):
            after, before = (samples.right(regime, r, k, arm) for r in (recipe, full))
            rows.append(
                {
                    "study": study,
                    "regime": regime,
                    "recipe": recipe,
                    "against": full,
                    "k": k,
                    "weights": "best" if arm == "bridged" else "last",
                    "accuracy": after.mean(),
                    "against_accuracy": before.mean(),
                    **compare(after, before, confidence, samples.clusters(regime)),
                }
            )
    return pd.DataFrame(rows)


def controls_table(samples: Samples, claims: Claims, study: str, confidence: float) -> pd.DataFrame:
    """Each control compared with the bridge and with the prompt that reads no source."""
    rows, full = [], claims.all_fixes
    for regime, recipe, k in samples.kinds():
        if recipe != full:
            continue
        bridged, free = samples.right(regime, full, k), samples.right(regime, SOURCE_FREE, k)
        clusters = samples.clusters(regime)
        for control in (*CONTROLS, SOURCE_FREE):
            own = free if control == SOURCE_FREE else samples.right(regime, full, k, control)
            from_free = compare_these_seeds(own, free, confidence, clusters)
            from_own = compare(bridged, own, confidence, clusters)
            rows.append(
                {
                    "study": study,
                    "regime": regime,
                    "k": k,
                    "control": control,
                    "accuracy": own.mean(),
                    "bridged": bridged.mean(),
                    **{f"bridged_{n}": v for n, v in from_own.items()},
                    **{f"source_free_{n}": v for n, v in from_free.items()},
                }
            )
        own = samples.right_alone(regime, "identity", FORWARD)
        rows.append(
            {
                "study": study,
                "regime": regime,
                "k": k,
                "control": "identity",
                "accuracy": own.mean(),
                "bridged": bridged.mean(),
                "same_as_target_alone": str(
                    samples.same_texts(regime, "identity", "target_alone")
                ).lower(),
            }
        )
    return pd.DataFrame(rows)


def compression_table(
    samples: Samples,
    claims: Claims,
    bytes_a_token: Mapping[str, tuple[int, int]],
    study: str,
    confidence: float,
) -> pd.DataFrame:
    """Accuracy against K, between the source-free prompt and the target alone.

    Compression is the mean number of tokens of the text that soft tokens stand for, divided by K.
    `bytes_a_token` has the bytes of a token in the KV caches of the target and of the source, by
    regime. The target's cache saves the tokens that K soft tokens replace (`kv_saved_mib`); both
    caches together save that less the source's cache (`both_kv_saved_mib`).
    """
    rows, trained = [], set(samples.kinds())
    for regime, recipe, k in samples.kinds_of_claims(claims):
        right = samples.right(regime, recipe, k)
        free = (regime, SOURCE_FREE, k)
        target = samples.right_alone(regime, "target_alone", FORWARD)
        alone = samples.rows_alone(regime, "target_alone", FORWARD)
        replaced = alone.question_tokens.mean()
        clusters = samples.clusters(regime)
        against = compare(right, target, confidence, clusters)
        kept = paired(right, target, confidence, clusters)
        of_target, of_source = bytes_a_token[regime]
        saved = (replaced - k) * of_target
        source_bytes = alone.source_tokens.mean() * of_source
        rows.append(
            {
                "study": study,
                "regime": regime,
                "recipe": recipe,
                "k": k,
                "source_reads": "the text alone" if regime in AGNOSTIC else "text and question",
                "n": right.shape[1],
                "seeds": len(right),
                "text_tokens": replaced,
                "compression": replaced / k,
                "accuracy": right.mean(),
                **accuracy_interval(kept, 1),
                "source_free": samples.right(*free).mean() if free in trained else None,
                **{
                    arm: samples.right_alone(regime, arm, FORWARD, k).mean()
                    for arm in ("token_budget", "text_answer")
                },
                "target_alone": target.mean(),
                "share_of_target": right.mean() / target.mean() if target.mean() else None,
                **{f"against_target_{n}": v for n, v in against.items()},
                "kv_saved_mib": saved / MIB,
                "source_kv_mib": source_bytes / MIB,
                "both_kv_saved_mib": (saved - source_bytes) / MIB,
            }
        )
    return pd.DataFrame(rows)


def messages_table(
    samples: Samples, claims: Claims, widths: Mapping[str, int], study: str, confidence: float
) -> pd.DataFrame:
    """What the source may send for a question: its bytes, and the accuracy of the target with it.

    Messages are K soft tokens in each number format, the source's answer as text of no more bytes
    than the smallest of them (`text_answer`), and the whole text that soft tokens stand for
    (`text`). Every message is compared with float32. `widths` has the width of the target's
    embeddings, by regime.
    """
    rows = []
    for regime, recipe, k in samples.kinds_of_claims(claims):
        plain = samples.right(regime, recipe, k)
        arms = {name: "bridged" if name == "float32" else name for name in SOFT_BITS}
        messages: dict[str, tuple[np.ndarray, pd.Series]] = {
            name: (
                samples.right(regime, recipe, k, arm),
                pd.Series([soft_token_bytes(k, widths[regime], name)]),
            )
            for name, arm in arms.items()
        }
        answers = samples.rows_alone(regime, "text_answer", FORWARD, k)
        messages["text_answer"] = answers.correct.to_numpy()[None], answers.message_bytes
        text = samples.rows_alone(regime, "target_alone", FORWARD)
        messages["text"] = text.correct.to_numpy()[None], text.question_bytes
        for name, (own, sizes) in messages.items():
            rows.append(
                {
                    "study": study,
                    "regime": regime,
                    "recipe": recipe,
                    "k": k,
                    "message": name,
                    "bits": SOFT_BITS.get(name),
                    "bytes_mean": sizes.mean(),
                    "bytes_max": sizes.max(),
                    "accuracy": own.mean(),
                    **compare(own, plain, confidence, samples.clusters(regime)),
                }
            )
    return pd.DataFrame(rows)


def audit_table(samples: Samples, study: str, confidence: float) -> pd.DataFrame:
    """The published evaluator and ours, each with the last weights and with zero soft tokens."""
    rows = []
    kinds = {
        ("published", "trained"): "published_evaluator",
        ("published", "zero"): "published_evaluator_zero_soft_tokens",
        ("ours", "trained"): "bridged_last",
        ("ours", "zero"): "bridged_last_zero_soft_tokens",
    }
    audited = samples.cells[samples.cells.arm == "published_evaluator"]
    for key, _ in audited.groupby(["regime", "recipe", "k", "seed"]):
        named = dict(zip(("regime", "recipe", "k", "seed"), key, strict=True))
        own = samples.cells
        for name, value in named.items():
            own = own[own[name] == value]
        for (evaluator, soft), arm in kinds.items():
            part = own[own.arm == arm]
            right = part.sort_values("item").correct.to_numpy()
            low, high = share_interval(right, confidence, samples.clusters(str(named["regime"])))
            rows.append(
                {
                    "study": study,
                    **named,
                    "evaluator": evaluator,
                    "soft_tokens": soft,
                    "gold_shown": str(evaluator == "published").lower(),
                    "n": len(right),
                    "accuracy": right.mean(),
                    "low": low,
                    "high": high,
                    "note": BUILT_LEAK if named["regime"] in REGIMES else "",
                }
            )
    return pd.DataFrame(rows)


def plan_table(samples: Samples, recipes: Mapping[str, Recipe], study: str) -> pd.DataFrame:
    """One row a recipe, regime and K of the configuration, and how much of it has been trained."""
    rows = []
    for name, recipe in recipes.items():
        for regime in recipe.regimes:
            for k in recipe.soft_tokens:
                own = samples.summary.query("regime == @regime and recipe == @name and k == @k")
                rows.append(
                    {
                        "study": study,
                        "recipe": name,
                        "regime": regime,
                        "k": k,
                        "mode": recipe.mode,
                        "direction": SWAPPED if recipe.swapped else FORWARD,
                        "translator": recipe.translator.kind,
                        "seeds": len(own),
                        "max_steps": recipe.max_steps,
                        "steps": own.steps.sum(),
                        "stopped_early": int((own.stop_reason != MAX_STEPS).sum()),
                        "status": "done" if len(own) >= len(samples.seeds) else "partly done",
                    }
                )
    return pd.DataFrame(rows)
