"""Compares two conditions on the same questions, with intervals and p values. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from ablation.analysis.statistics import SMALLEST_P, Means, paired_means

Comparison = dict[str, float]  # {difference, low, high, p}


def paired(after: np.ndarray, before: np.ndarray, confidence: float) -> Means:
    """The means of two conditions [seeds, questions]: `before` is condition 0, `after` 1."""
    seeds = max(len(after), len(before))
    both = [np.broadcast_to(x, (seeds, x.shape[1])) for x in (before, after)]
    return paired_means([np.stack(both).astype(float)], confidence)


def compare(after: np.ndarray, before: np.ndarray, confidence: float) -> Comparison:
    """The difference of two accuracies, its interval over questions and seeds, and its p."""
    found = paired(after, before, confidence).difference(1, 0)
    return {
        "difference": found.value,
        "low": found.interval.low,
        "high": found.interval.high,
        "p": found.p,
    }


def compare_these_seeds(after: np.ndarray, before: np.ndarray, confidence: float) -> Comparison:
    """As `compare`, for these translators only: the interval is over questions alone."""
    one, other = (x.mean(axis=0, keepdims=True) for x in (after, before))
    return compare(one, other, confidence)


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


def trend(scores: Sequence[np.ndarray], ks: Sequence[int], confidence: float) -> Comparison:
    """The slope of accuracy on log2 K, compared with zero.

    `scores` has [seeds, questions] for each K. Every question has a slope of its own, and a t test
    over questions compares their mean with zero.
    """
    x = np.log2(ks) - np.log2(ks).mean()
    of_questions = np.stack([s.mean(axis=0) for s in scores])  # [K, questions]
    slopes = (x[:, None] * of_questions).sum(0) / (x**2).sum()
    slopes[np.ptp(of_questions, axis=0) == 0] = 0.0  # exactly zero, without rounding errors
    return compare_with_zero(slopes, confidence)


def accuracy_interval(means: Means, condition: int) -> dict[str, float]:
    """The interval of one accuracy over questions and seeds: {accuracy_low, accuracy_high}."""
    interval = means.accuracy(condition)
    return {"accuracy_low": interval.low, "accuracy_high": interval.high}
