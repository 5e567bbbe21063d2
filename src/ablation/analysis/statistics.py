"""Intervals and tests for accuracies on the same items. No torch.

docs/statistics.md has the estimands, the formulas and the measured coverage of the intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

SMALLEST_P = 1e-300  # smaller p values are reported as this one, so that none is zero


class Interval(NamedTuple):
    """A two-sided confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """A difference of accuracies; `p` is two-sided and agrees with the interval about zero."""

    value: float
    interval: Interval
    p: float


class Ratio(NamedTuple):
    """A ratio of differences; value and interval are None if it is not estimable."""

    value: float | None
    interval: Interval | None

    @property
    def status(self) -> str:
        """`estimable` or `not_estimable`."""
        return "not_estimable" if self.interval is None else "estimable"


def wilson(correct: int, n: int, confidence: float) -> Interval:
    """Wilson's interval for one accuracy.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.
    """
    interval = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def mcnemar(before: np.ndarray, after: np.ndarray) -> float:
    """Two-sided exact p value of McNemar's test.

    The null hypothesis: changes from right to wrong are as likely as changes from wrong to right.

    It is 1 if no item changes. `before` and `after` are 0/1 of the same items.

    Source: Q. McNemar, Psychometrika 12 (1947) 153-157, with binomial probabilities.
    """
    worse, better = int(np.sum(before > after)), int(np.sum(before < after))
    if not worse + better:
        return 1.0
    return max(SMALLEST_P, float(stats.binomtest(worse, worse + better).pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted by Holm's step-down method over their family, in the same order.

    Source: S. Holm, Scand. J. Statist. 6 (1979) 65-70: the i-th smallest of m is multiplied by
    m - i + 1, and no adjusted value is below that of a smaller one.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    raised = np.maximum.accumulate(factors * np.asarray(p_values)[order]).clip(max=1)
    adjusted = np.empty(len(order))
    adjusted[order] = raised
    return adjusted.tolist()


def fieller(
    numerator: float, denominator: float, covariance: np.ndarray, confidence: float
) -> Interval | None:
    """Fieller's interval for numerator / denominator; None if it is unbounded (g >= 1).

    `covariance` is that of the two estimates, [[var num, cov], [cov, var den]].
    Source: E. C. Fieller, J. R. Statist. Soc. B 16 (1954) 175-185, in the form of the usual
    quadratic: the ratios r for which (num - r den)² <= z² var(num - r den).
    """
    z2 = _z(confidence) ** 2
    (vnn, vnd), (_, vdd) = covariance
    a = denominator**2 - z2 * vdd
    if a <= 0:
        return None
    b = numerator * denominator - z2 * vnd
    c = numerator**2 - z2 * vnn
    spread = np.sqrt(max(0.0, b**2 - a * c))
    return Interval(float((b - spread) / a), float((b + spread) / a))


@dataclass(frozen=True)
class Means:
    """Accuracies of some conditions on the same items, with covariances of their errors.

    The true accuracy is the mean over the population that the items are drawn from and, if there
    are several seeds, over the population of seeds.
    """

    values: np.ndarray  # [conditions]
    items: np.ndarray  # [conditions, conditions]: covariance of `values` due to the draw of items
    seeds: np.ndarray  # the same due to the draw of seeds; zeros for one seed
    n_seeds: int
    confidence: float

    def difference(self, after: int, before: int) -> Difference:
        """Condition `after` minus condition `before`."""
        weights = self._weights(after, before)
        value = float(weights @ self.values)
        by_items, by_seeds = weights @ self.items @ weights, self._from_seeds(weights)
        half = np.sqrt(_z(self.confidence) ** 2 * (by_items + self._inflation() * by_seeds))
        interval = Interval(max(-1.0, value - half), min(1.0, value + half))
        return Difference(value, interval, _p(value, by_items, by_seeds, self.n_seeds - 1))

    def ratio(self, numerator: tuple[int, int], denominator: tuple[int, int]) -> Ratio:
        """The ratio of two differences, each given as (after, before).

        The conditions of the denominator must not depend on seeds. The ratio is estimable only if
        the denominator is positive and Fieller's interval is bounded.
        """
        top, bottom = self._weights(*numerator), self._weights(*denominator)
        up, down = float(top @ self.values), float(bottom @ self.values)
        pair = np.stack([top, bottom])
        covariance = pair @ self.items @ pair.T
        covariance[0, 0] += self._inflation() * self._from_seeds(top)
        interval = fieller(up, down, covariance, self.confidence) if down > 0 else None
        return Ratio(None if interval is None else up / down, interval)

    def _weights(self, after: int, before: int) -> np.ndarray:
        identity = np.eye(len(self.values))
        return identity[after] - identity[before]

    def _from_seeds(self, weights: np.ndarray) -> float:
        return max(0.0, float(weights @ self.seeds @ weights))

    def _inflation(self) -> float:
        """(t / z)²: corrects for a variance that is estimated from few seeds."""
        if self.n_seeds == 1:
            return 0.0
        t = special.stdtrit(self.n_seeds - 1, (1 + self.confidence) / 2)
        return float((t / _z(self.confidence)) ** 2)


def paired_means(tasks: Sequence[np.ndarray], confidence: float) -> Means:
    """The unweighted mean over tasks of each condition's accuracy.

    `tasks` holds one array of 0/1 for each task, [conditions, seeds, items] or [conditions, 1,
    items]; a condition without seeds is repeated along them. Variances (docs/statistics.md):

    items: the sample covariance of the items' means over seeds, divided by n. z² coin flips, spread
        over the tasks, are added to its sum of squares, so that the variance is positive even if no
        item differs. Source: A. Agresti, B. A. Coull, Am. Stat. 52 (1998) 119-126; for paired
        differences D. G. Bonett, R. M. Price, J. Educ. Behav. Stat. 37 (2012) 479-488.
    seeds: the variance of the seeds' means divided by their number, minus the part that the items
        explain (two-way analysis of variance with both factors random).
    """
    n_seeds, share = tasks[0].shape[1], 1 / len(tasks)
    conditions = tasks[0].shape[0]
    items, explained = np.zeros((2, conditions, conditions))
    for scores in tasks:
        n = scores.shape[2]
        of_items, of_seeds = scores.mean(axis=1), scores.mean(axis=2)
        mean = of_seeds.mean(axis=1)
        away = of_items - mean[:, None]
        coins = share * _z(confidence) ** 2 / 4 * np.eye(conditions)
        items += (away @ away.T + coins) / (n * max(1, n - 1))
        if n_seeds > 1:
            rest = scores - of_items[:, None] - of_seeds[:, :, None] + mean[:, None, None]
            rest = rest.reshape(conditions, -1)
            explained += rest @ rest.T / ((n_seeds - 1) * max(1, n - 1) * n_seeds * n)
    of_seeds = share * sum(scores.mean(axis=2) for scores in tasks)
    seeds = np.zeros((conditions, conditions))
    if n_seeds > 1:
        seeds = np.cov(of_seeds) / n_seeds - share**2 * explained
    return Means(of_seeds.mean(axis=1), share**2 * items, seeds, n_seeds, confidence)


def _z(confidence: float) -> float:
    return float(special.ndtri((1 + confidence) / 2))


def _p(value: float, by_items: float, by_seeds: float, df: int) -> float:
    """One minus the confidence level at which the interval of `difference` ends at zero."""
    if by_seeds == 0:
        return max(SMALLEST_P, float(2 * special.ndtr(-abs(value) / np.sqrt(by_items))))

    def excess(log_p: float) -> float:
        tail = np.exp(log_p) / 2
        z, t = special.ndtri(tail), special.stdtrit(df, tail)
        return np.hypot(z * np.sqrt(by_items), t * np.sqrt(by_seeds)) - abs(value)

    smallest = np.log(SMALLEST_P)
    if excess(smallest) <= 0:
        return SMALLEST_P
    return float(np.exp(optimize.brentq(excess, smallest, 0.0, xtol=1e-10)))
