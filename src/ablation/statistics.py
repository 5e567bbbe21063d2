"""Paired tests and intervals for accuracies on the same items. Pure: numpy and scipy, no torch.

Scores come as arrays of 0/1 with items on the last axis, so that condition `after` minus condition
`before` is a difference within items. Several tasks make a macro: the unweighted mean of their
means, whose variance is the sum of the tasks' variances over the number of tasks squared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A two-sided confidence interval; both ends nan where none exists."""

    low: float
    high: float


NO_INTERVAL = Interval(float("nan"), float("nan"))


def wilson(correct: int, n: int, confidence: float) -> Interval:
    """Wilson's interval for one accuracy."""
    interval = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def mcnemar(before: np.ndarray, after: np.ndarray) -> float:
    """Two-sided exact McNemar p: are right→wrong and wrong→right equally likely? 1 without any."""
    worse, better = int(np.sum(before > after)), int(np.sum(before < after))
    return float(stats.binomtest(worse, worse + better).pvalue) if worse + better else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment over a family of p values.

    Source: S. Holm, Scand. J. Statist. 6 (1979) 65-70: the i-th smallest of m is multiplied by
    m - i + 1, and none is adjusted below a smaller one.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    raised = np.maximum.accumulate(factors * np.asarray(p_values)[order]).clip(max=1)
    adjusted = np.empty(len(order))
    adjusted[order] = raised
    return adjusted.tolist()


def resampled_means(
    tasks: Sequence[np.ndarray], resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Two-level bootstrap means, [resamples, conditions, tasks].

    `tasks` holds one array [conditions, seeds, items] a task. Each resample draws seeds with
    replacement (the same for every task), then items within each task (the same for every
    condition and seed: pairs stay paired). With one seed this is the paired bootstrap over items.
    """
    seeds = tasks[0].shape[1]
    drawn_seeds = rng.integers(seeds, size=(resamples, seeds))
    seed_weights = np.stack([(drawn_seeds == s).mean(axis=1) for s in range(seeds)], axis=1)
    columns = []
    for scores in tasks:
        items = scores.shape[2]
        weights = rng.multinomial(items, np.full(items, 1 / items), size=resamples) / items
        by_seed = np.einsum("ri,csi->rcs", weights, scores, optimize=True)
        columns.append(np.einsum("rcs,rs->rc", by_seed, seed_weights))
    return np.stack(columns, axis=2)


def percentile_interval(values: np.ndarray, confidence: float) -> Interval:
    """The bootstrap percentile interval of a resampled statistic."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def normal_p(difference: float, standard_error: float) -> float:
    """Two-sided p of a difference under a normal law; 1 for no difference without spread."""
    if standard_error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.norm.sf(abs(difference) / standard_error))


def fieller(
    numerator: float, denominator: float, covariance: np.ndarray, confidence: float
) -> Interval | None:
    """Fieller's interval for numerator / denominator; None when it is unbounded (g >= 1).

    `covariance` is that of the two estimates, [[var num, cov], [cov, var den]].
    Source: E. C. Fieller, J. R. Statist. Soc. B 16 (1954) 175-185, in the form of the usual
    quadratic: the ratios r for which (num - r den)² <= z² var(num - r den).
    """
    z = stats.norm.ppf((1 + confidence) / 2)
    (vnn, vnd), (_, vdd) = covariance
    a = denominator**2 - z**2 * vdd
    if a <= 0:
        return None
    b = numerator * denominator - z**2 * vnd
    c = numerator**2 - z**2 * vnn
    spread = np.sqrt(max(0.0, b**2 - a * c))
    return Interval(float((b - spread) / a), float((b + spread) / a))
