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
SEEDS_DISAGREE_BELOW = 0.01  # rows over all seeds whose `p_of_equal_seeds` is smaller are marked


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


class Part(NamedTuple):
    """One source of error: the covariance of the means that is due to it.

    df: the degrees of freedom of this estimate; infinite where it counts as known.
    """

    covariance: np.ndarray  # [conditions, conditions]
    df: float = np.inf


@dataclass(frozen=True)
class Means:
    """Accuracies of some conditions on the same items, with covariances of their errors.

    The true accuracy is the mean over the population that the items, or their clusters, are drawn
    from and, if there are several seeds, over the population of seeds.
    """

    values: np.ndarray  # [conditions]
    of_items: tuple[Part, ...]  # due to the draw of the items of each task
    independent: np.ndarray  # the sum of their covariances if no items belonged together
    of_seeds: Part | None  # due to the draw of seeds; None for one seed
    confidence: float

    @property
    def items(self) -> np.ndarray:
        """The covariance due to the draw of items, [conditions, conditions]."""
        return np.sum([part.covariance for part in self.of_items], axis=0)

    @property
    def seeds(self) -> np.ndarray:
        """The covariance due to the draw of seeds; zeros for one seed."""
        return np.zeros_like(self.independent) if self.of_seeds is None else self.of_seeds[0]

    def difference(self, after: int, before: int) -> Difference:
        """Condition `after` minus condition `before`."""
        found = self.contrast(self._weights(after, before))
        low, high = found.interval
        return found._replace(interval=Interval(max(-1.0, low), min(1.0, high)))

    def contrast(self, weights: np.ndarray) -> Difference:
        """The sum of the conditions' accuracies times `weights` [conditions], such as a slope."""
        value, half, variances = self._estimate(weights)
        return Difference(value, Interval(value - half, value + half), _p(value, variances))

    def accuracy(self, condition: int) -> Interval:
        """The interval of one accuracy over items and seeds."""
        value, half, _ = self._estimate(np.eye(len(self.values))[condition])
        return Interval(max(0.0, value - half), min(1.0, value + half))

    def ratio(self, numerator: tuple[int, int], denominator: tuple[int, int]) -> Ratio:
        """The ratio of two differences, each given as (after, before).

        It is estimable only if the denominator is positive and Fieller's interval is bounded.
        """
        pair = np.stack([self._weights(*numerator), self._weights(*denominator)])
        up, down = (float(v) for v in pair @ self.values)
        if down <= 0:
            return Ratio(None, None)
        log_p = np.log1p(-self.confidence)
        widened = [
            c * (_quantile(log_p, df) / _quantile(log_p, np.inf)) ** 2
            for c, df in self._errors(pair, pair[0] - up / down * pair[1])
        ]
        interval = fieller(up, down, np.sum(widened, axis=0), self.confidence)
        return Ratio(None if interval is None else up / down, interval)

    def design_effect(self, after: int, before: int) -> float:
        """The variance of a difference due to items, over that if no items belonged together.

        Source: L. Kish, Survey Sampling (1965), section 8.2.
        """
        return self.design_effect_of(self._weights(after, before))

    def design_effect_of(self, weights: np.ndarray) -> float:
        """The design effect of a `contrast`."""
        return float(weights @ self.items @ weights / (weights @ self.independent @ weights))

    def _estimate(self, weights: np.ndarray) -> tuple[float, float, list[tuple[float, float]]]:
        """(value, half-width of its interval, its variances with their degrees of freedom)."""
        variances = [(float(c[0, 0]), df) for c, df in self._errors(weights[None], weights)]
        half = _half_width(np.log1p(-self.confidence), variances)
        return float(weights @ self.values), half, variances

    def _weights(self, after: int, before: int) -> np.ndarray:
        identity = np.eye(len(self.values))
        return identity[after] - identity[before]

    def _errors(self, contrasts: np.ndarray, weights: np.ndarray) -> list[Part]:
        """The errors of `contrasts`, [contrasts, conditions], due to items and due to seeds.

        The degrees of freedom of the tasks are pooled for the contrast `weights`. Source: B. L.
        Welch, Biometrika 34 (1947) 28-35.
        """
        sizes = np.array([weights @ c @ weights for c, _ in self.of_items])
        inverse = np.sum(sizes**2 / [df for _, df in self.of_items])
        df = sizes.sum() ** 2 / inverse if inverse else np.inf
        parts = [Part(contrasts @ self.items @ contrasts.T, df)]
        if self.of_seeds is None:
            return parts
        # The estimate is a difference of two, and has no negative variance only when it is cut.
        of_seeds = contrasts @ self.of_seeds.covariance @ contrasts.T
        variances, axes = np.linalg.eigh(of_seeds)
        return [*parts, Part(axes * variances.clip(min=0) @ axes.T, self.of_seeds.df)]


def paired_means(
    tasks: Sequence[np.ndarray],
    confidence: float,
    clusters: Sequence[np.ndarray | None] | None = None,
) -> Means:
    """The unweighted mean over tasks of each condition's accuracy.

    `tasks` holds one array of 0/1 for each task, [conditions, seeds, items] or [conditions, 1,
    items]; a condition without seeds is repeated along them. `clusters` holds the name of each
    item's cluster, [items], or of its two clusters, [items, 2], or None for a task of independent
    items. Variances (docs/statistics.md):

    items: the sample covariance of the items' means over seeds, divided by n; of clusters, of the
        sums over the items of each cluster. z² coin flips, spread over the tasks, are added to its
        sum of squares, so that the variance is positive even if no item differs. Sources: A.
        Agresti, B. A. Coull, Am. Stat. 52 (1998) 119-126; for paired differences D. G. Bonett, R.
        M. Price, J. Educ. Behav. Stat. 37 (2012) 479-488; for clusters, with one degree of freedom
        less than there are clusters, K.-Y. Liang, S. L. Zeger, Biometrika 73 (1986) 13-22; for
        items of two clusters P. M. Aronow, C. Samii, V. A. Assenova, Polit. Anal. 23 (2015)
        564-577.
    seeds: the variance of the seeds' means divided by their number, minus the part that the items
        explain (two-way analysis of variance with both factors random).
    """
    n_seeds, share = tasks[0].shape[1], 1 / len(tasks)
    conditions = tasks[0].shape[0]
    independent, explained = np.zeros((2, conditions, conditions))
    parts = []
    for scores, groups in zip(tasks, clusters or [None] * len(tasks), strict=True):
        n = scores.shape[2]
        of_items, of_seeds = scores.mean(axis=1), scores.mean(axis=2)
        mean = of_seeds.mean(axis=1)
        away = of_items - mean[:, None]
        coins = share * _z(confidence) ** 2 / 4 * np.eye(conditions)
        own = share**2 * (away @ away.T + coins) / (n * max(1, n - 1))
        independent += own
        if groups is not None:
            shared, corrected, count = _shared(away, groups)
            together = share**2 * (shared * corrected + coins) / (n * max(1, n - 1))
            parts.append(Part(together, max(1, count - 1)))
        else:
            parts.append(Part(own))
        if n_seeds > 1:
            rest = scores - of_items[:, None] - of_seeds[:, :, None] + mean[:, None, None]
            within = (n_seeds - 1) * max(1, n - 1) * n_seeds * n
            if groups is not None:
                shared, corrected, _ = _shared(rest, groups)
                explained += corrected * shared / within
            else:
                rest = rest.reshape(conditions, -1)
                explained += rest @ rest.T / within
    of_seeds = share * sum(scores.mean(axis=2) for scores in tasks)
    seeds = None
    if n_seeds > 1:
        seeds = Part(np.cov(of_seeds) / n_seeds - share**2 * explained, n_seeds - 1)
    return Means(of_seeds.mean(axis=1), tuple(parts), independent, seeds, confidence)


def _shared(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, float, int]:
    """(products of `values` summed over the pairs of items that share a cluster, correction, G).

    `values` is [conditions, items] or [conditions, seeds, items], and the products are [conditions,
    conditions]. `groups` is [items], or [items, 2] for items of two clusters; two equal ones are
    one. The correction turns the n / (n - 1) of n items into the G / (G - 1) of G clusters, and is
    1 if each item is a cluster.
    """
    names, index = np.unique(groups, return_inverse=True)
    count, n = len(names), len(groups)
    index = index.reshape(n, -1)
    products = _products_of_sums(values, index)
    if index.shape[1] == 2:  # items that share both clusters were counted twice
        both = index[:, 0] != index[:, 1]
        pairs = np.unique(np.sort(index, axis=1), axis=0, return_inverse=True)[1]
        products = products - _products_of_sums(values * both, pairs.reshape(n, 1))
        sizes, axes = np.linalg.eigh(products)  # negative ones are errors of the estimate
        products = axes * sizes.clip(min=0) @ axes.T
    return products, (count / max(1, count - 1)) / (n / max(1, n - 1)), count


def _products_of_sums(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The products of the conditions' sums over each cluster, [conditions, conditions]."""
    summed = _sums(values, index).reshape(len(values), -1)
    return summed @ summed.T


def _sums(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Sums of `values` over each cluster, on the last axis.

    `index` numbers the clusters, [items] or [items, memberships].
    """
    index = index.reshape(len(index), -1)
    member = np.zeros((len(index), index.max() + 1))
    member[np.arange(len(index))[:, None], index] = 1
    return values @ member


def p_of_equal_seeds(
    tasks: Sequence[np.ndarray], clusters: Sequence[np.ndarray | None]
) -> float | None:
    """p value of the hypothesis that all seeds have the same expected score; None for one seed.

    `tasks` holds the scores of each task, [seeds, items]: answers of 0/1, or differences of them.
    `clusters` is as in `paired_means`, with one cluster an item. With x_sc the sum of the scores of
    seed s over cluster c of a task, divided by the task's number of items, and d_sc = x_sc - mean
    over seeds of x_sc,

        Q = Σ_s (Σ_c d_sc)² / (Σ_c Σ_s d_sc² / (k - 1)),

    the sums over c running over all clusters of all tasks, has approximately the chi-square law
    with k - 1 degrees of freedom for k seeds. If seeds differ by chance alone, then in each cluster
    any of them may have got any of the k sums. Over these permutations, which are independent from
    cluster to cluster, the covariance matrix of the seeds' scores is the denominator times
    (I - 1/k). For answers to independent items Q is that of W. G. Cochran, Biometrika 37 (1950)
    256-266; for two seeds it is McNemar's chi-square.
    """
    n_seeds = len(tasks[0])
    if n_seeds < 2:
        return None
    totals, squares = np.zeros(n_seeds), 0.0
    for scores, groups in zip(tasks, clusters, strict=True):
        sums = (
            scores if groups is None else _sums(scores, np.unique(groups, return_inverse=True)[1])
        )
        away = (sums - sums.mean(axis=0)) / scores.shape[1]
        totals += away.sum(axis=1)
        squares += float((away**2).sum())
    if not squares:
        return 1.0  # all seeds give the same answers
    q = (n_seeds - 1) * float(totals @ totals) / squares
    return max(SMALLEST_P, float(special.chdtrc(n_seeds - 1, q)))


def clustered_wilson(right: np.ndarray, groups: np.ndarray, confidence: float) -> Interval:
    """Wilson's interval for one accuracy whose items belong to clusters.

    It is that of the effective number of items: n over the design effect, which is taken to be at
    least 1, times (z / t)² with one degree of freedom less than there are clusters. Source: E. L.
    Korn, B. I. Graubard, Surv. Methodol. 24 (1998) 193-201. If all items are right, or none is,
    each cluster counts as one item. `groups` is as in `paired_means`.
    """
    n, p = len(right), float(np.mean(right))
    shared, corrected, clusters = _shared((right - p)[None], groups)
    alone = p * (1 - p) * n
    effect = max(1.0, float(corrected * shared[0, 0] / alone)) if alone else n / clusters
    z = _z(confidence)
    t = _quantile(np.log1p(-confidence), max(1, clusters - 1))
    effective = n / effect * (z / t) ** 2
    middle = (p + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z * np.sqrt(p * (1 - p) / effective + z**2 / (4 * effective**2)) / (1 + z**2 / effective)
    return Interval(max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def _z(confidence: float) -> float:
    return float(special.ndtri((1 + confidence) / 2))


def _quantile(log_p: float, df: float) -> float:
    """The two-sided quantile at the p value exp(log_p): of Student's t, or of the normal law."""
    tail = np.exp(log_p) / 2
    return float(-(special.ndtri(tail) if np.isinf(df) else special.stdtrit(df, tail)))


def _half_width(log_p: float, variances: Sequence[tuple[float, float]]) -> float:
    """The half-width of the interval of a sum of errors, each with (variance, df).

    Source: W. G. Howe, J. Am. Stat. Assoc. 69 (1974) 789-794: the squared half-widths are added.
    """
    # hypot, because the square of a far quantile is more than the largest number
    return float(np.hypot.reduce([np.sqrt(v) * _quantile(log_p, df) for v, df in variances]))


def _p(value: float, variances: Sequence[tuple[float, float]]) -> float:
    """One minus the confidence level at which the interval of `difference` ends at zero."""
    variances = [(v, df) for v, df in variances if v]
    if all(np.isinf(df) for _, df in variances):
        error = np.sqrt(sum(v for v, _ in variances))
        return max(SMALLEST_P, float(2 * special.ndtr(-abs(value) / error)))

    def excess(log_p: float) -> float:
        return _half_width(log_p, variances) - abs(value)

    smallest = np.log(SMALLEST_P)
    if excess(smallest) <= 0:
        return SMALLEST_P
    return float(np.exp(optimize.brentq(excess, smallest, 0.0, xtol=1e-10)))
