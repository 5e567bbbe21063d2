"""Promises for seeds that disagree: chance among items marks one row in a hundred, a failure all.

Whether `trace` computes the marks again is a promise of tests/unit/lineage/test_trace.py.
"""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ablation.analysis.recovery import CONTRAST_COLUMNS, study_tables, table
from ablation.analysis.statistics import SEEDS_DISAGREE_BELOW, p_of_equal_seeds
from tests.unit.analysis.test_recovery import CONFIG, condition

STUDIES = 1000


@given(st.integers(0, 2**32 - 1))
def test_of_independent_items_it_is_the_test_of_cochran(seed):
    rng = np.random.default_rng(seed)
    right = (rng.random((rng.integers(2, 6), 50)) < rng.random((1, 50))) * 1
    k, of_seeds, of_items = len(right), right.sum(axis=1), right.sum(axis=0)
    spread = k * (of_items.sum()) - (of_items**2).sum()
    q = (k - 1) * (k * (of_seeds**2).sum() - of_seeds.sum() ** 2) / spread
    assert p_of_equal_seeds([right], [None]) == pytest.approx(stats.chi2.sf(q, k - 1))


@given(st.integers(0, 2**32 - 1))
def test_copies_of_an_item_in_one_cluster_are_no_further_evidence(seed):
    rng = np.random.default_rng(seed)
    right = (rng.random((3, 40)) < 0.7) * 1
    alone = p_of_equal_seeds([right], [None])
    copies = np.repeat(right, 5, axis=1), np.repeat(np.arange(40), 5)
    assert p_of_equal_seeds([copies[0]], [copies[1]]) == pytest.approx(alone)
    assert p_of_equal_seeds([right, right], [None, None]) <= alone + 1e-12


def test_seeds_that_answer_alike_agree_and_one_seed_has_no_test():
    right = np.tile(np.arange(40) % 3 == 0, (3, 1)) * 1
    assert p_of_equal_seeds([right], [None]) == 1
    assert p_of_equal_seeds([right[:1]], [None]) is None


def answers(clusters, rng, failed=()):
    """(answers of three seeds to 300 items, the items' clusters), right in .67 of them.

    Items are of different difficulty. Where there are clusters, a quarter of the variance belongs
    to the cluster, and another to what a seed has made of it. A failed seed is right in .35.
    """
    groups = None if clusters is None else rng.integers(clusters, size=300)
    shared, own = rng.standard_normal(300), rng.standard_normal((3, 300))
    if groups is not None:
        shared = shared + rng.standard_normal(clusters)[groups]
        own = own + rng.standard_normal((3, clusters))[:, groups]
    level = np.where(np.isin(np.arange(3), failed), -0.4, 0.45) * np.sqrt(2 * (2 - (not clusters)))
    return (shared + own + level[:, None] > 0) * 1, groups


def marked(clusters, failed=()):
    """The share of simulated rows of one task, and of the macro of two, that are marked."""
    rng = np.random.default_rng(clusters or 0)  # the seed None would be another one each time
    found = []
    for _ in range(STUDIES):
        tasks = [answers(clusters, rng, failed) for _ in range(2)]
        scores, groups = zip(*tasks, strict=True)
        found.append([p_of_equal_seeds(scores[:n], groups[:n]) for n in (1, 2)])
    return (np.array(found) < SEEDS_DISAGREE_BELOW).mean(axis=0)


@pytest.mark.parametrize("clusters", [16, 40, None])
def test_equal_seeds_are_marked_in_about_one_row_in_a_hundred(clusters):
    assert SEEDS_DISAGREE_BELOW == 0.01
    # two standard errors of a share of .01 are .006; with few clusters the test is cautious
    assert all(0.001 <= share <= 0.017 for share in marked(clusters))


@pytest.mark.parametrize("clusters", [16, 40, None])
def test_one_failed_seed_of_three_is_marked_in_nearly_all_studies(clusters):
    task, macro = marked(clusters, failed=[2])
    assert macro > 0.98 and task > (0.98 if clusters != 16 else 0.85)


def study(last):
    """Two recipes of three seeds; the third seed of 3B is right in the share `last`."""
    rng, mask = np.random.default_rng(5), "prefill_bidir"
    conditions = [condition(0.9, rng=rng), condition(0.4, mask, rng=rng)]
    for seed, share in ((1, 0.8), (2, 0.8), (3, last)):
        for m in ("causal", mask):
            conditions.append(condition(0.6, m, "3A", seed, rng=rng))
            conditions.append(condition(share, m, "3B", seed, rng=rng))
    return conditions


@pytest.mark.parametrize(("last", "disagree"), [(0.8, False), (0.4, True)])
def test_both_tables_mark_the_rows_over_all_seeds_and_no_others(last, disagree):
    recovery, contrasts = study_tables(study(last), CONFIG)
    for frame in (table(recovery), table(contrasts, CONTRAST_COLUMNS)):
        own = frame[frame.recipe == "3B"]
        one = own.seed != "all"
        assert own[one].seeds_disagree.isna().all() and own[one].seeds_p.isna().all()
        assert set(own[~one].seeds_disagree) == {disagree}
        assert (own[~one].seeds_p < 0.01).eq(disagree).all()
    other = table(recovery).query("recipe == '3A' and seed == 'all'")
    assert not other.seeds_disagree.any()
    assert pd.api.types.is_numeric_dtype(other.seeds_p)


def test_a_contrast_pairs_the_seeds():
    """A seed that is worse in both recipes alike makes their difference no less certain."""
    rng, mask = np.random.default_rng(6), "prefill_bidir"
    conditions = [condition(0.9, rng=rng), condition(0.3, mask, rng=rng)]
    for seed, share in ((1, 0.8), (2, 0.8), (3, 0.5)):
        conditions.append(condition(share, mask, "3B", seed, rng=rng))
        conditions.append(condition(share, mask, "3A", seed, rng=rng))
    recovery, contrasts = study_tables(conditions, CONFIG)
    assert all(row["seeds_disagree"] for row in recovery if row["seed"] == "all")
    assert not any(row["seeds_disagree"] for row in contrasts if row["seed"] == "all")
