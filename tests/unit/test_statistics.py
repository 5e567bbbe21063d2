"""Promises of the statistics: identities, known values, and the coverage they claim."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablation.statistics import (
    fieller,
    holm,
    mcnemar,
    normal_p,
    percentile_interval,
    resampled_means,
    wilson,
)


def test_wilson_is_the_textbook_interval():
    interval = wilson(81, 263, 0.95)  # Newcombe 1998, table I
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_symmetric_and_sees_only_discordant_items(pairs):
    before, after = (np.array(x, dtype=int) for x in zip(*pairs, strict=True))
    assert mcnemar(before, after) == mcnemar(after, before)
    discordant = before != after
    assert mcnemar(before, after) == mcnemar(before[discordant], after[discordant])


def test_mcnemar_known_value():
    before, after = np.array([1] * 9 + [0]), np.array([0] * 9 + [1])
    assert mcnemar(before, after) == pytest.approx(2 * 11 / 2**10)


def test_holm_known_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(a >= p - 1e-12 and a <= 1 for a, p in zip(adjusted, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= -1e-12)


def test_resampling_keeps_pairs_together():
    # Two conditions that always differ by exactly 1: so must every resample of their difference.
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2, size=(1, 1, 50))
    draws = resampled_means([np.concatenate([scores, scores + 1])], 200, rng)
    assert np.allclose(draws[:, 1] - draws[:, 0], 1)


def test_bootstrap_standard_error_is_the_analytic_one():
    rng = np.random.default_rng(1)
    tasks = [rng.integers(0, 2, size=(1, 1, n)) for n in (200, 100)]
    draws = resampled_means(tasks, 20_000, np.random.default_rng(2)).mean(axis=2)[:, 0]
    analytic = np.sqrt(sum(t.var() / t.shape[2] for t in tasks)) / len(tasks)
    assert draws.std() == pytest.approx(analytic, rel=0.03)


def test_seeds_widen_the_interval_by_their_own_spread():
    rng = np.random.default_rng(3)
    same = np.repeat(rng.integers(0, 2, size=(1, 1, 400)), 3, axis=1)
    apart = same.copy()
    apart[0, 0], apart[0, 1] = 0, 1
    widths = []
    for scores in (same, apart):
        draws = resampled_means([scores], 4000, np.random.default_rng(4))[:, 0, 0]
        interval = percentile_interval(draws, 0.95)
        widths.append(interval.high - interval.low)
    assert widths[1] > 3 * widths[0]


def test_normal_p():
    assert normal_p(1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)
    assert normal_p(0.0, 0.0) == 1.0 and normal_p(0.1, 0.0) == 0.0


@settings(deadline=None)
@given(st.floats(-2, 2), st.floats(0.5, 2), st.floats(0.01, 0.1), st.floats(-0.9, 0.9))
def test_fieller_ends_are_where_the_test_of_the_ratio_turns(top, bottom, sd, rho):
    covariance = sd**2 * np.array([[1, rho], [rho, 1]])
    interval = fieller(top, bottom, covariance, 0.95)
    assert interval.low <= top / bottom <= interval.high
    for r in (interval.low, interval.high):
        contrast = np.array([1, -r])
        z = abs(top - r * bottom) / np.sqrt(contrast @ covariance @ contrast)
        assert z == pytest.approx(stats.norm.ppf(0.975), rel=1e-6)


def test_fieller_is_unbounded_when_the_denominator_may_be_zero():
    assert fieller(0.1, 0.05, 0.04**2 * np.eye(2), 0.95) is None
    assert fieller(0.1, 0.05, 0.02**2 * np.eye(2), 0.95) is not None


def test_fieller_covers_the_true_ratio():
    rng, covered, runs = np.random.default_rng(5), 0, 2000
    covariance = np.array([[0.03**2, 0.0002], [0.0002, 0.03**2]])
    draws = rng.multivariate_normal([0.1, 0.2], covariance, size=runs)
    for top, bottom in draws:
        interval = fieller(top, bottom, covariance, 0.95)
        covered += interval is None or interval.low <= 0.5 <= interval.high
    assert 0.935 <= covered / runs <= 0.965
