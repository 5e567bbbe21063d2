"""Sample rows of the second study -> its tables. Pure: pandas and scipy, no torch.

Every number comes from a row of a sample file; a table names the configuration's hash beside it,
and refuses two ablations of one hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ablation.bridge.prompts import CONTROLS, QUANTIZED, SOURCE_FREE
from ablation.statistics import SMALLEST_P, Means, mcnemar, paired_means, wilson

ALONE = ("source_alone", "target_alone", "cascade", "identity", "token_budget")
FLOAT_BITS = 32


class SameConfiguration(ValueError):
    """Two ablations have one configuration: their difference would be noise."""


class Samples:
    """Rows of cells and of the arms alone, and arrays [seeds, items] of what was right."""

    def __init__(self, cells: pd.DataFrame, alone: pd.DataFrame, summary: pd.DataFrame):
        names = cells.groupby("config").recipe.nunique()
        if (names > 1).any():
            found = sorted(cells[cells.config == names.idxmax()].recipe.unique())
            raise SameConfiguration(
                f"{' and '.join(found)} have one configuration (hash {names.idxmax()}): their "
                "difference would be noise. Give one of them another recipe, or drop it."
            )
        self.cells, self.alone, self.summary = cells, alone, summary
        self.seeds = sorted(int(s) for s in cells.seed.unique())
        direction = summary.groupby("recipe").direction.first()
        self.direction = dict(direction)

    def right(self, regime: str, recipe: str, k: int, arm: str = "bridged") -> np.ndarray:
        """[seeds, items] of 0/1; a diffusion's first noise."""
        rows = self.cells.query(
            "regime == @regime and recipe == @recipe and k == @k and arm == @arm and noise == 0"
        )
        if rows.empty:
            raise KeyError(f"no rows of {recipe} at K = {k} in {regime}, arm {arm}")
        return rows.pivot(index="seed", columns="item", values="correct").to_numpy()

    def right_alone(self, regime: str, arm: str, direction: str, k: int = 0) -> np.ndarray:
        """[1, items] of an arm without a translator."""
        rows = self.alone.query(
            "regime == @regime and arm == @arm and direction == @direction and k == @k"
        )
        if rows.empty:
            raise KeyError(f"no rows of {arm} in {regime}, {direction}")
        return rows.sort_values("item").correct.to_numpy()[None]

    def same_words(self, regime: str, arm: str, other: str) -> bool:
        """Whether two arms without a translator said the same on every question, word for word."""
        rows = self.alone.query("regime == @regime and direction == 'forward'")
        said = rows[rows.k == 0].pivot(index="item", columns="arm", values="text")
        return bool((said[arm] == said[other]).all())

    def kinds(self) -> list[tuple[str, str, int]]:
        """(regime, recipe, K) of every kind of cell, in order."""
        found = self.cells[["regime", "recipe", "k"]].drop_duplicates()
        return [tuple(row) for row in found.itertuples(index=False)]


def paired(after: np.ndarray, before: np.ndarray, confidence: float) -> Means:
    """Two conditions on the same items; condition 1 is `after`."""
    seeds = max(len(after), len(before))
    both = [np.broadcast_to(x, (seeds, x.shape[1])) for x in (before, after)]
    return paired_means([np.stack(both).astype(float)], confidence)


def change(after: np.ndarray, before: np.ndarray, confidence: float) -> dict:
    """Difference of accuracies with its interval and p."""
    found = paired(after, before, confidence).difference(1, 0)
    return {
        "difference": found.value,
        "low": found.interval.low,
        "high": found.interval.high,
        "p": found.p,
    }


def of_these_seeds(after: np.ndarray, before: np.ndarray, confidence: float) -> dict:
    """As `change`, of the translators at hand: the interval is over questions alone."""
    return change(*(x.mean(axis=0, keepdims=True) for x in (after, before)), confidence)


def runs_table(samples: Samples, study: str, confidence: float) -> pd.DataFrame:
    """One row a cell: the dev-selected step on test, once, and everything beside it."""
    rows = []
    for regime, recipe, k in samples.kinds():
        direction = samples.direction[recipe]
        named = {
            arm: samples.right_alone(regime, arm, direction, k * (arm == "token_budget"))
            for arm in ALONE
        }
        for seed in samples.seeds:
            own = samples.cells.query(
                "regime == @regime and recipe == @recipe and k == @k and seed == @seed"
            )
            if not own.empty:
                cell = samples.summary.loc[f"{regime}/{seed}/{recipe}-k{k}"]
                rows.append(_run(own, cell, named, study, confidence))
    return pd.DataFrame(rows)


def _run(own: pd.DataFrame, cell: pd.Series, named: Mapping, study: str, confidence: float) -> dict:
    best = own[(own.arm == "bridged") & (own.noise == 0)].sort_values("item")
    last = own[own.arm == "bridged_last"]
    right, n = best.correct.to_numpy(), len(best)
    low, high = wilson(int(right.sum()), n, confidence)
    text_given = cell["mode"] != "soft_only"
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
        **{arm: float(values.mean()) for arm, values in named.items()},
        **{arm: _mean(own, arm) for arm in CONTROLS},
        "p_target_alone": mcnemar(named["target_alone"][0], right),
        "p_source_alone": mcnemar(named["source_alone"][0], right),
        "unique_answers": best.answer.nunique(dropna=False),
        "invalid_answers": int(best.answer.isna().sum()),
        "empty_answers": int((best.text.str.strip() == "").sum()),
        "collapsed": str(best.answer.nunique(dropna=False) == 1).lower(),
        "tests_a_bridge": str(not text_given).lower(),
    }


def _mean(own: pd.DataFrame, arm: str) -> float | None:
    rows = own[own.arm == arm]
    return None if rows.empty else rows.correct.mean()


def effects_table(samples: Samples, claims: Mapping, study: str, confidence: float):
    """What each removed fix changed, with its interval, also when that is nil."""
    rows, full, k = [], claims["all_fixes"], claims["soft_tokens"]
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
                    **change(after, before, confidence),
                }
            )
    return pd.DataFrame(rows)


def controls_table(samples: Samples, claims: Mapping, study: str, confidence: float):
    """Each control beside the bridge and beside the prompt that reads no source."""
    rows, full = [], claims["all_fixes"]
    for regime, recipe, k in samples.kinds():
        if recipe != full:
            continue
        bridged, free = samples.right(regime, full, k), samples.right(regime, SOURCE_FREE, k)
        for control in (*CONTROLS, SOURCE_FREE):
            own = free if control == SOURCE_FREE else samples.right(regime, full, k, control)
            from_free = of_these_seeds(own, free, confidence)
            rows.append(
                {
                    "study": study,
                    "regime": regime,
                    "k": k,
                    "control": control,
                    "accuracy": own.mean(),
                    "bridged": bridged.mean(),
                    **{f"bridged_{n}": v for n, v in change(bridged, own, confidence).items()},
                    **{f"source_free_{n}": v for n, v in from_free.items()},
                }
            )
        own = samples.right_alone(regime, "identity", "forward")
        rows.append(
            {
                "study": study,
                "regime": regime,
                "k": k,
                "control": "identity",
                "accuracy": own.mean(),
                "bridged": bridged.mean(),
                "same_as_target_alone": str(
                    samples.same_words(regime, "identity", "target_alone")
                ).lower(),
            }
        )
    return pd.DataFrame(rows)


def of_mean(values: np.ndarray, confidence: float) -> dict:
    """Mean of independent values with its t interval and the p of zero.

    One value says nothing of how far it may be off: p is 1. Nor do values that are all zero.
    """
    value = float(values.mean())
    if len(values) < 2:
        return {"difference": value, "low": np.nan, "high": np.nan, "p": 1.0}
    if np.ptp(values) == 0:
        p = SMALLEST_P if value else 1.0
        return {"difference": value, "low": value, "high": value, "p": p}
    test = stats.ttest_1samp(values, 0.0)
    interval = test.confidence_interval(confidence)
    return {
        "difference": value,
        "low": float(interval.low),
        "high": float(interval.high),
        "p": max(SMALLEST_P, float(test.pvalue)),
    }


def trend(scores: Sequence[np.ndarray], ks: Sequence[int], confidence: float) -> dict:
    """Does accuracy rise with K? Slope of each item's correctness on log2 K, tested against zero.

    `scores` [seeds, items] for each K; items are paired over K, so each has a slope of its own, and
    a t test over items asks whether their mean is zero.
    """
    x = np.log2(ks) - np.log2(ks).mean()
    of_items = np.stack([s.mean(axis=0) for s in scores])  # [K, items]
    slopes = (x[:, None] * of_items).sum(0) / (x**2).sum()
    slopes[np.ptp(of_items, axis=0) == 0] = 0.0  # not what rounding leaves of zero
    return of_mean(slopes, confidence)


def compression_table(samples: Samples, claims: Mapping, costs: Mapping, study: str, confidence):
    """Accuracy against K between floor and ceiling; compression = tokens of text replaced / K.

    `costs`: {regime: cache bytes a token of the target}. The word is for soft_only alone.
    """
    rows, full = [], claims["all_fixes"]
    for regime, recipe, k in samples.kinds():
        if recipe != full:
            continue
        right = samples.right(regime, full, k)
        target = samples.right_alone(regime, "target_alone", "forward")
        alone = samples.alone.query("regime == @regime and arm == 'target_alone'")
        replaced = alone[alone.direction == "forward"].question_tokens.mean()
        kept = paired(right, target, confidence)
        rows.append(
            {
                "study": study,
                "regime": regime,
                "recipe": recipe,
                "k": k,
                "n": right.shape[1],
                "seeds": len(right),
                "text_tokens": replaced,
                "compression": replaced / k,
                "accuracy": right.mean(),
                **_interval(kept, 1),
                "source_free": samples.right(regime, SOURCE_FREE, k).mean(),
                "token_budget": samples.right_alone(regime, "token_budget", "forward", k).mean(),
                "target_alone": target.mean(),
                "share_of_target": right.mean() / target.mean() if target.mean() else None,
                **{f"against_target_{n}": v for n, v in change(right, target, confidence).items()},
                "kv_saved_mib": (replaced - k) * costs[regime] / 2**20,
            }
        )
    return pd.DataFrame(rows)


def _interval(means: Means, condition: int) -> dict:
    """Of one accuracy over items and seeds: its difference to a condition that is always zero."""
    nothing = Means(
        np.array([means.values[condition], 0.0]),
        np.diag([means.items[condition, condition], 0.0]),
        np.diag([means.seeds[condition, condition], 0.0]),
        means.n_seeds,
        means.confidence,
    ).difference(0, 1)
    return {"accuracy_low": max(0.0, nothing.interval.low), "accuracy_high": nothing.interval.high}


def quantization_table(samples: Samples, claims: Mapping, widths: Mapping, study: str, confidence):
    """What rounding soft tokens keeps; one scale of 4 bytes a token comes with the rounded ones."""
    rows, full = [], claims["all_fixes"]
    for regime, recipe, k in samples.kinds():
        if recipe != full:
            continue
        plain = samples.right(regime, full, k)
        for name, bits in {"float32": FLOAT_BITS, **QUANTIZED}.items():
            own = plain if name == "float32" else samples.right(regime, full, k, name)
            scale = 0 if name == "float32" else 4
            rows.append(
                {
                    "study": study,
                    "regime": regime,
                    "recipe": recipe,
                    "k": k,
                    "soft_tokens": name,
                    "bits": bits,
                    "bytes": k * (widths[regime] * bits // 8 + scale),
                    "accuracy": own.mean(),
                    **change(own, plain, confidence),
                }
            )
    return pd.DataFrame(rows)


def audit_table(samples: Samples, study: str, confidence: float) -> pd.DataFrame:
    """The published evaluator beside ours: the same last weights, and no soft tokens at all."""
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
            n, right = len(part), int(part.correct.sum())
            low, high = wilson(right, n, confidence)
            rows.append(
                {
                    "study": study,
                    **named,
                    "evaluator": evaluator,
                    "soft_tokens": soft,
                    "gold_shown": str(evaluator == "published").lower(),
                    "n": n,
                    "accuracy": right / n,
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def plan_table(samples: Samples, recipes: Mapping, study: str) -> pd.DataFrame:
    """What was to be run, and what became of it: one row a recipe, regime and K."""
    rows = []
    for name, recipe in recipes.items():
        for regime in recipe["regimes"]:
            for k in recipe["soft_tokens"]:
                own = samples.summary.query("regime == @regime and recipe == @name and k == @k")
                rows.append(
                    {
                        "study": study,
                        "recipe": name,
                        "regime": regime,
                        "k": k,
                        "mode": recipe["mode"],
                        "direction": "swapped" if recipe["swapped"] else "forward",
                        "translator": recipe["translator"]["kind"],
                        "seeds": len(own),
                        "max_steps": recipe["max_steps"],
                        "steps": own.steps.sum(),
                        "stopped_early": int((own.stop_reason != "max_steps").sum()),
                        "status": "done" if len(own) == len(samples.seeds) else "partly done",
                    }
                )
    return pd.DataFrame(rows)
