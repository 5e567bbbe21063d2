"""Promises for items that belong to clusters: copies of an item are no further items."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.analysis.conditions import clusters_of
from ablation.analysis.statistics import clustered_wilson, paired_means, wilson

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
import coverage_clusters

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed, n=200, conditions=3, seeds=2):
    rng = np.random.default_rng(seed)
    return (rng.random((conditions, seeds, n)) < rng.uniform(0.2, 0.8, (conditions, 1, 1))) * 1


@given(SEEDS)
def test_clusters_of_one_item_are_independent_items(seed):
    scores = drawn(seed)
    alone, each = (paired_means([scores], 0.95, [g]) for g in (None, np.arange(200)))
    np.testing.assert_allclose(each.items, alone.items, rtol=1e-9)
    np.testing.assert_allclose(each.seeds, alone.seeds, atol=1e-12)
    assert each.design_effect(1, 0) == pytest.approx(1)
    one, other = (m.difference(1, 0) for m in (alone, each))
    # Student's t in place of the normal law; intervals are cut at 1
    assert other.interval.low <= one.interval.low and one.interval.high <= other.interval.high
    assert other.p >= one.p


@given(SEEDS, st.integers(2, 6))
def test_copies_of_items_say_no_more_than_the_items(seed, copies):
    scores, groups = drawn(seed, seeds=1), np.arange(200)
    many, names = np.repeat(scores, copies, axis=2), np.repeat(groups, copies)
    once, again = (paired_means([s], 0.95, [g]) for s, g in ((scores, groups), (many, names)))
    assert again.difference(1, 0).value == pytest.approx(once.difference(1, 0).value)
    # the coin flips are those of items, so they weigh less among copies
    width = [np.subtract(*m.difference(1, 0).interval[::-1]) for m in (once, again)]
    assert 0.97 < width[1] / width[0] <= 1
    assert again.design_effect(1, 0) == pytest.approx(copies, rel=0.1)
    naive = paired_means([many], 0.95).difference(1, 0).interval
    assert np.subtract(*naive[::-1]) < 0.8 * width[0]


@given(SEEDS, st.integers(2, 30))
def test_names_and_order_of_clusters_change_nothing(seed, count):
    rng = np.random.default_rng(seed)
    scores, groups = drawn(seed), rng.integers(count, size=200)
    order = rng.permutation(200)
    one = paired_means([scores], 0.95, [groups]).ratio((2, 1), (0, 1))
    other = paired_means([scores[..., order]], 0.95, [1000 - groups[order]]).ratio((2, 1), (0, 1))
    assert one.status == other.status
    if one.interval:
        assert other.value == pytest.approx(one.value)
        assert other.interval == pytest.approx(one.interval)


def test_intervals_that_leave_clusters_out_hold_the_truth_too_seldom():
    rng = np.random.default_rng(5)
    values, covered = coverage_clusters.accuracies(0.4), np.zeros(2)
    truth = (values[2] - values[1]) / (values[0] - values[1])
    for _ in range(200):
        scores, groups = coverage_clusters.simulate(0.4, 16, 0.0, rng)
        for k, clusters in enumerate((groups, None)):
            found = paired_means([scores], 0.95, [clusters]).ratio((2, 1), (0, 1)).interval
            covered[k] += found is not None and found.low <= truth <= found.high
    assert covered[0] >= 184 and covered[1] <= 170


@given(SEEDS, st.integers(2, 40))
def test_the_interval_of_an_accuracy_is_no_narrower_for_clusters(seed, count):
    rng = np.random.default_rng(seed)
    right = (rng.random(count * 5) < rng.random()) * 1
    groups = np.repeat(np.arange(count), 5)
    plain, found = wilson(int(right.sum()), len(right), 0.95), clustered_wilson(right, groups, 0.95)
    assert 0 <= found.low <= plain.low + 1e-12 and plain.high - 1e-12 <= found.high <= 1


def test_tasks_without_clusters_have_none():
    rows = [("a", "1", 0, "x"), ("a", "2", 0, "x"), ("b", "3", 0, "3"), ("b", "4", 0, "4")]
    samples = pd.DataFrame(rows, columns=["task", "doc_hash", "choice", "cluster"])
    found = clusters_of(samples)
    assert list(found) == ["a"] and found["a"].to_dict() == {"1": "x", "2": "x"}
