"""Promises of the statistics: identities, independent computations, and the coverage they claim."""

import sys
from dataclasses import replace
from itertools import combinations
from math import comb, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from ablation.analysis.statistics import SMALLEST_P, fieller, holm, mcnemar, paired_means, wilson

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
import coverage

Z = stats.norm.ppf(0.975)
ids = st.integers(0, 2**32 - 1)


def studies(least_seeds=1, most_seeds=4):
    """Scores [conditions, seeds, items] of one to three tasks, with every mixture of answers.

    Seeds may differ by more than their items do: each condition's seeds have shares of their own.
    """

    def draw(seed, tasks, seeds, conditions, share, spread):
        rng = np.random.default_rng(seed)
        shares = share + spread * rng.standard_normal((conditions, seeds, 1))
        sizes = rng.integers(2, 40, size=tasks)
        return [(rng.random((conditions, seeds, n)) < shares).astype(int) for n in sizes]

    seeds, spread = st.integers(least_seeds, most_seeds), st.sampled_from([0, 0.2, 1])
    return st.builds(draw, ids, st.integers(1, 3), seeds, st.just(4), st.floats(0, 1), spread)


# One accuracy and one pair of conditions


@example((81, 263))
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_are_where_the_score_test_turns(counts):
    """Newcombe 1998, table I: 81 of 263 gives .2553 to .3662."""
    correct, n = counts
    p = correct / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    assert wilson(correct, n, 0.95) == pytest.approx((centre - half, centre + half), abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_a_fair_coin_on_the_discordant_items(pairs):
    before, after = (np.array(x, dtype=int) for x in zip(*pairs, strict=True))
    fewer, more = sorted((np.sum(before > after), np.sum(before < after)))
    tail = sum(comb(fewer + more, i) for i in range(fewer + 1)) / 2 ** (fewer + more)
    assert mcnemar(before, after) == pytest.approx(min(1, 2 * tail))
    assert mcnemar(after, before) == mcnemar(before, after)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_with_bonferroni(p_values):
    every = range(len(p_values))
    families = [s for size in every for s in combinations(every, size + 1)]
    closed = [
        max(min(1, len(s) * min(p_values[i] for i in s)) for s in families if j in s) for j in every
    ]
    assert holm(p_values) == pytest.approx(closed)


# Means over tasks, items and seeds


@settings(deadline=None)
@given(studies())
def test_values_are_plain_means_and_the_macro_their_mean(tasks):
    single = [paired_means([t], 0.95) for t in tasks]
    for task, found in zip(tasks, single, strict=True):
        assert np.allclose(found.values, task.mean(axis=(1, 2)))
    assert np.allclose(
        paired_means(tasks, 0.95).values, np.mean([m.values for m in single], axis=0)
    )


@given(studies(most_seeds=1))
def test_macro_variance_is_the_sum_of_task_variances_over_tasks_squared(tasks):
    macro, single = paired_means(tasks, 0.95), [paired_means([t], 0.95) for t in tasks]
    summed = sum(m.items for m in single) / len(tasks) ** 2
    apart = ~np.eye(4, dtype=bool)
    assert np.allclose(macro.items[apart], summed[apart])
    # on the diagonal stand the coin flips too: those of one task, shared among all
    coins = [Z**2 / 4 / (t.shape[2] * (t.shape[2] - 1)) for t in tasks]
    surplus = (1 - 1 / len(tasks)) * sum(coins) / len(tasks) ** 2
    assert np.allclose(np.diag(macro.items), np.diag(summed) - surplus)


def test_item_variance_is_what_the_paired_bootstrap_comes_to():
    rng = np.random.default_rng(1)
    tasks = [(rng.random((2, 1, n)) < 0.7).astype(float) for n in (300, 200)]
    draws = 0
    for t in tasks:
        weights = rng.multinomial(t.shape[2], np.full(t.shape[2], 1 / t.shape[2]), size=20_000)
        draws = draws + (t[1, 0] - t[0, 0]) @ weights.T / t.shape[2] / 2
    means = paired_means(tasks, 0.95)
    contrast = np.array([-1, 1])
    assert sqrt(contrast @ means.items @ contrast) == pytest.approx(draws.std(), rel=0.02)


@given(studies(least_seeds=2))
def test_seed_variance_is_the_analysis_of_variance(tasks):
    k, of_seeds, residual = tasks[0].shape[1], 0.0, 0.0
    for task in tasks:
        cells, n = task[1] - task[0], task.shape[2]
        seed, item = cells.mean(1), cells.mean(0)
        rest = np.sum((cells - seed[:, None] - item + cells.mean()) ** 2) / ((k - 1) * (n - 1))
        of_seeds, residual = of_seeds + seed / len(tasks), residual + rest / n / len(tasks) ** 2
    means, contrast = paired_means(tasks, 0.95), np.array([-1, 1, 0, 0])
    expected = (of_seeds.var(ddof=1) - residual) / k
    assert contrast @ means.seeds @ contrast == pytest.approx(expected, abs=1e-12)


@given(studies(most_seeds=1))
def test_of_one_seed_nothing_is_said_about_seeds(tasks):
    with np.errstate(all="raise"):
        assert not paired_means(tasks, 0.95).seeds.any()


def test_two_alike_seeds_tell_nothing_that_one_did_not():
    one = (np.random.default_rng(3).random((2, 1, 80)) < 0.6).astype(int)
    single, double = (paired_means([np.repeat(one, k, axis=1)], 0.95) for k in (1, 2))
    assert single.difference(1, 0) == double.difference(1, 0)


def test_the_spread_of_few_seeds_enters_with_their_t_quantile():
    # Every item of a seed is worth the same: all the spread is between seeds, but for coin flips.
    shares, n = np.array([0.50, 0.53, 0.59]), 10_000
    scores = np.stack([np.full((3, n), 0.4), np.repeat(shares[:, None], n, axis=1)])
    found = paired_means([scores], 0.95).difference(1, 0)
    t_part = stats.t.ppf(0.975, 2) ** 2 * shares.var(ddof=1) / 3
    coins = Z**2 * 2 * Z**2 / 4 / (n * (n - 1))
    assert found.value == pytest.approx(0.14)
    assert found.interval.high - found.value == pytest.approx(sqrt(t_part + coins))


@settings(deadline=None)
@given(studies(), ids)
def test_order_of_items_seeds_and_tasks_changes_nothing(tasks, seed):
    rng = np.random.default_rng(seed)
    seeds = rng.permutation(tasks[0].shape[1])
    shuffled = [t[:, seeds][:, :, rng.permutation(t.shape[2])] for t in tasks]
    rng.shuffle(shuffled)
    before, after = (paired_means(t, 0.95).difference(1, 0) for t in (tasks, shuffled))
    assert after.value == pytest.approx(before.value, abs=1e-12)
    assert after.interval == pytest.approx(before.interval, abs=1e-9)
    assert after.p == pytest.approx(before.p, rel=1e-6, abs=1e-12)


@settings(deadline=None)
@given(studies())
def test_swapped_conditions_flip_the_sign(tasks):
    means = paired_means(tasks, 0.95)
    there, back = means.difference(1, 0), means.difference(0, 1)
    assert back.value == -there.value
    assert back.interval == pytest.approx((-there.interval.high, -there.interval.low))
    assert back.p == pytest.approx(there.p)


@settings(deadline=None)
@given(studies(), st.sampled_from([0.8, 0.95, 0.99]))
def test_p_is_small_exactly_when_the_interval_leaves_zero_out(tasks, confidence):
    found = paired_means(tasks, confidence).difference(1, 0)
    low, high = found.interval
    assert -1 <= low <= found.value <= high <= 1
    assume(min(abs(low), abs(high)) > 1e-9)
    assert (found.p < 1 - confidence) == (low > 0 or high < 0)


@settings(deadline=None)
@given(studies())
def test_p_is_one_minus_the_confidence_at_which_the_interval_ends_at_zero(tasks):
    means = paired_means(tasks, 0.95)
    p = means.difference(1, 0).p
    assume(1e-9 < p < 0.999)
    low, high = replace(means, confidence=1 - p).difference(1, 0).interval
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-6)


def test_no_difference_seen_is_not_certainty_that_there_is_none():
    scores = np.ones((2, 1, 300), dtype=int)
    found = paired_means([scores], 0.95).difference(1, 0)
    assert found.value == 0 and found.p == 1
    # the exact bound: of 300 unlike pairs none would be seen with probability .025 at .0122
    assert 0.008 < found.interval.high < 0.0122


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_item_leaves_everything_open(seeds):
    scores = np.stack([np.zeros((seeds, 1)), np.ones((seeds, 1))])
    with np.errstate(all="raise"):
        found = paired_means([scores], 0.95).difference(1, 0)
    assert found.value == 1 and found.interval.low < 0 and 0.05 < found.p < 1


def test_no_p_is_ever_zero():
    rng = np.random.default_rng(4)
    scores = np.stack([np.ones((1, 100_000)), rng.random((1, 100_000)) < 0.5])
    assert paired_means([scores], 0.95).difference(1, 0).p == SMALLEST_P
    assert mcnemar(np.ones(2000), np.zeros(2000)) == SMALLEST_P
    seeds = np.stack([np.ones((500, 4000)), rng.random((500, 4000)) < rng.random((500, 1)) / 9])
    means = paired_means([seeds], 0.95)
    assert means.seeds[1, 1] > 0 and means.difference(1, 0).p == SMALLEST_P > 0


# Ratios


@st.composite
def ratios(draw):
    top, bottom = draw(st.floats(-2, 2)), draw(st.floats(0.05, 2))
    sd, other, rho = (draw(st.floats(*r)) for r in ((0.01, 0.5), (0.01, 0.5), (-0.9, 0.9)))
    return top, bottom, np.array([[sd**2, rho * sd * other], [rho * sd * other, other**2]])


@given(ratios())
def test_fieller_holds_the_ratios_that_a_grid_does_not_reject(drawn):
    top, bottom, covariance = drawn
    interval = fieller(top, bottom, covariance, 0.95)

    def kept(r):
        contrast = np.stack([np.ones_like(r), -r])
        variance = np.einsum("ir,ij,jr->r", contrast, covariance, contrast)
        return (top - r * bottom) ** 2 <= Z**2 * variance

    # very far out the test of the ratio is the test of the denominator
    far = kept(np.array([-1e9, 1e9]))
    assert (interval is None) == bool(far.any()) or bottom**2 == pytest.approx(
        Z**2 * covariance[1, 1], rel=1e-6
    )
    if interval:
        width = interval.high - interval.low
        grid = np.linspace(interval.low - width, interval.high + width, 3001)
        inside = (grid >= interval.low) & (grid <= interval.high)
        edge = np.minimum(abs(grid - interval.low), abs(grid - interval.high)) < 1e-6 * width
        assert ((kept(grid) == inside) | edge).all()
        assert interval.low <= top / bottom <= interval.high


@given(ratios(), st.floats(0.1, 10))
def test_fieller_follows_a_change_of_units_and_the_complement(drawn, scale):
    top, bottom, covariance = drawn
    interval = fieller(top, bottom, covariance, 0.95)
    assume(interval is not None and bottom**2 > 1.01 * Z**2 * covariance[1, 1])
    scaled = fieller(scale * top, scale * bottom, scale**2 * covariance, 0.95)
    assert scaled == pytest.approx(interval, rel=1e-6, abs=1e-9)
    # what is not recovered, 1 - R, has the mirrored interval
    rest = np.array([[-1, 1], [0, 1]])
    lost = fieller(bottom - top, bottom, rest @ covariance @ rest.T, 0.95)
    assert lost == pytest.approx((1 - interval.high, 1 - interval.low), rel=1e-6, abs=1e-6)


@given(st.floats(-2, 2), st.floats(0.05, 2))
def test_what_is_known_for_certain_has_an_interval_of_one_point(top, bottom):
    interval = fieller(top, bottom, np.zeros((2, 2)), 0.95)
    assert interval == pytest.approx((top / bottom, top / bottom), abs=1e-6)


def test_nothing_is_a_ratio_to_what_is_zero_for_certain():
    assert fieller(0.1, 0.0, np.diag([0.01, 0.0]), 0.95) is None


@settings(deadline=None)
@given(studies())
def test_a_ratio_is_estimable_exactly_when_its_denominator_is_surely_positive(tasks):
    for t in tasks:
        t[:2] = t[:2, :1]  # the base conditions have no seeds
    means = paired_means(tasks, 0.95)
    contrast = np.array([1, -1, 0, 0])
    below, variance = contrast @ means.values, contrast @ means.items @ contrast
    assume(abs(below**2 - Z**2 * variance) > 1e-9)
    ratio = means.ratio((2, 1), (0, 1))
    sure = below > 0 and below**2 > Z**2 * variance
    assert ratio.status == ("estimable" if sure else "not_estimable")
    if sure:
        assert ratio.interval.low <= ratio.value <= ratio.interval.high
        assert ratio.value == pytest.approx((means.values[2] - means.values[1]) / below)
    else:
        assert ratio.value is None


@settings(deadline=None)
@given(studies(), st.sampled_from([0.8, 0.95, 0.99]))
def test_a_ratio_differs_from_zero_exactly_when_its_numerator_does(tasks, confidence):
    """So the spread of seeds is as wide in R as it is in the gain."""
    for t in tasks:
        t[0], t[1] = 1, t[1, 0] * (np.arange(t.shape[2]) % 4 == 0)  # much is lost for certain
    means = paired_means(tasks, confidence)
    gain, ratio = means.difference(2, 1).interval, means.ratio((2, 1), (0, 1)).interval
    assume(ratio is not None and min(abs(gain.low), abs(gain.high)) > 1e-9)
    assert (ratio.low <= 0 <= ratio.high) == (gain.low <= 0 <= gain.high)


# Coverage: benchmarks/coverage.py in small


def test_intervals_over_seeds_hold_the_truth_where_the_plain_bootstrap_does_not():
    *_, hits = coverage.count("n = 500, .70 → .36 → .50", 0.15, studies=100)
    for name in ("gain", "side effect", "R", "R - R'"):
        ours, _, plain, _ = hits[name, "all", "macro"] / 100
        assert ours >= 0.91 and plain < ours


def test_intervals_of_one_seed_hold_the_truth_in_the_micro_study():
    *_, hits = coverage.count("micro study, .997 → .65 → .99", 0.0, studies=100)
    for name in ("damage", "gain", "side effect", "R", "R - R'"):
        for level in ("task", "macro"):
            assert hits[name, "one", level][0] / 100 >= 0.91
