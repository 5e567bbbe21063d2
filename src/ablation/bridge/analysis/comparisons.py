"""Compares two conditions on the same questions, with intervals and p values. No torch.

`clusters` names the clusters of each question, [questions] or [questions, 2], as
`ablation.analysis.statistics.paired_means` takes them; None has independent questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from ablation.analysis.statistics import (
    SMALLEST_P,
    Difference,
    Interval,
    Means,
    clustered_wilson,
    mcnemar,
    paired_means,
    wilson,
)

Comparison = dict[str, float]  # {difference, low, high, p, design_effect}
Clusters = np.ndarray | None


def paired(
    after: np.ndarray, before: np.ndarray, confidence: float, clusters: Clusters = None
) -> Means:
    """The means of two conditions [seeds, questions]: `before` is condition 0, `after` 1."""
    seeds = max(len(after), len(before))
    both = [np.broadcast_to(x, (seeds, x.shape[1])) for x in (before, after)]
    return paired_means([np.stack(both).astype(float)], confidence, [clusters])


def compare(
    after: np.ndarray, before: np.ndarray, confidence: float, clusters: Clusters = None
) -> Comparison:
    """The difference of two accuracies, its interval over questions and seeds, and its p."""
    means = paired(after, before, confidence, clusters)
    return _comparison(means.difference(1, 0), means.design_effect(1, 0))


def _comparison(found: Difference, design_effect: float) -> Comparison:
    return {
        "difference": found.value,
        "low": found.interval.low,
        "high": found.interval.high,
        "p": found.p,
        "design_effect": design_effect,
    }


def compare_these_seeds(
    after: np.ndarray, before: np.ndarray, confidence: float, clusters: Clusters = None
) -> Comparison:
    """As `compare`, for these translators only: the interval is over questions alone."""
    one, other = (x.mean(axis=0, keepdims=True) for x in (after, before))
    return compare(one, other, confidence, clusters)


def compare_one_seed(
    after: np.ndarray, before: np.ndarray, confidence: float, clusters: Clusters = None
) -> float:
    """The p of one cell against one condition [questions]: McNemar's, or robust to clusters."""
    if clusters is None:
        return mcnemar(before, after)
    return compare(after[None], before[None], confidence, clusters)["p"]


def compare_with_zero(values: np.ndarray, confidence: float) -> Comparison:
    """The mean of independent values, its t interval, and the p of a t test against zero.

    A single value has no interval and p = 1. Values that are all equal have an interval of no
    width; their p is 1 if they are zero and the smallest p otherwise.
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


def trend(
    scores: Sequence[np.ndarray], ks: Sequence[int], confidence: float, clusters: Clusters = None
) -> Comparison:
    """The slope of accuracy on log2 K; its interval is over questions and seeds.

    `scores` has [seeds, questions] for each K.
    """
    x = np.log2(ks) - np.log2(ks).mean()
    means = paired_means([np.stack(scores)], confidence, [clusters])  # [K, seeds, questions]
    weights = x / (x**2).sum()
    return _comparison(means.contrast(weights), means.design_effect_of(weights))


def accuracy_interval(means: Means, condition: int) -> dict[str, float]:
    """The interval of one accuracy over questions and seeds: {accuracy_low, accuracy_high}."""
    interval = means.accuracy(condition)
    return {"accuracy_low": interval.low, "accuracy_high": interval.high}


def share_interval(right: np.ndarray, confidence: float, clusters: Clusters = None) -> Interval:
    """Wilson's interval of one cell's accuracy; of clustered questions for their effective n."""
    if clusters is None:
        return wilson(int(right.sum()), len(right), confidence)
    return clustered_wilson(right, clusters, confidence)
