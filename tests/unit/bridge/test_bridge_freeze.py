"""Promises of a freeze and of clustered questions: what passes, and what a claim may rest on."""

import numpy as np
import pytest

from ablation.analysis.statistics import paired_means
from ablation.bridge.analysis import tables
from ablation.bridge.analysis.freeze import chance_of_passing, freeze_table
from ablation.bridge.data.questions import NumberWorld
from ablation.config.bridge_blocks import Freeze
from ablation.config.load import load_study
from ablation.config.merging import ConfigError
from tests.support.bridge_rows import CLAIMS, N, costs_of, decisions, made_rows, sampling
from tests.support.bridge_tiny import CONFIG, bridge_study


def frozen(regime="compression", bar="keeps_target", seeds=(1, 2, 3, 4)):
    cells = {regime: {"soft_tokens": 8, "bar": bar}}
    return Freeze(seeds=list(seeds), cells=cells, bad_share=0.1)


def made(regime="compression", seeds=None, **levels):
    levels = {"all_fixes": 0.95, "no_fixes": 0.3, "source_free": 0.05} | levels
    return sampling.Samples(*made_rows(regime, **levels), seeds)


# ---- freezes -------------------------------------------------------------------------------------


def test_one_bad_cell_in_ten_passes_three_cells_often_and_the_shipped_freeze_seldom():
    assert chance_of_passing(0.1, 3) == pytest.approx(0.729)
    freeze = bridge_study().bridge.freeze
    assert freeze.bad_share == 0.1 and len(freeze.cells) >= 2
    assert chance_of_passing(freeze.bad_share, len(freeze.seeds)) < 0.2


def test_one_cell_below_its_bar_fails_the_freeze():
    samples = made()
    assert decisions(samples, costs_of(), frozen())["every frozen cell passes"] == "supported"
    cells = samples.cells
    bad = (cells.recipe == "all_fixes") & (cells.k == 8) & (cells.seed == 3)
    cells.loc[bad & (cells.arm == "bridged") & (cells["item"] < 20), "correct"] = 0
    table = freeze_table(samples, frozen(), CLAIMS, "micro", 0.95)
    assert table.set_index("seed").passes.to_dict() == dict.fromkeys((1, 2, 4), "true") | {
        3: "false"
    }
    assert decisions(samples, costs_of(), frozen())["every frozen cell passes"] == "refuted"


def test_to_beat_both_models_is_to_beat_each():
    found = freeze_table(made(), frozen(bar="beats_both"), CLAIMS, "micro", 0.95)
    assert set(found.passes) == {"false"}  # target-alone is as good
    samples = made()
    samples.alone.loc[samples.alone.arm == "target_alone", "correct"] = 0
    found = freeze_table(samples, frozen(bar="beats_both"), CLAIMS, "micro", 0.95)
    assert set(found.passes) == {"true"} and (found.p_source_alone < 0.01).all()


def test_seeds_of_the_freeze_alone_are_in_its_table_and_in_no_comparison_of_recipes():
    samples = made(seeds=[1, 2])
    assert samples.right("compression", "all_fixes", 8).shape == (2, N)
    assert len(freeze_table(samples, frozen(), CLAIMS, "micro", 0.95)) == 4
    runs = tables.runs_table(samples, "micro", 0.95)
    assert set(runs.query("recipe == 'all_fixes' and k == 8").seed) == {1, 2, 3, 4}


def test_seeds_of_the_freeze_alone_train_the_primary_cell_and_nothing_else():
    block = bridge_study().bridge
    regime, cell = next(iter(block.freeze.cells.items()))
    further = [seed for seed in block.seeds_of(regime) if seed not in block.seeds]
    assert sorted([*block.seeds, *further]) == sorted(block.freeze.seeds)
    own = block.cells_of(regime, further[0])
    assert {name: recipe["soft_tokens"] for name, recipe in own.items()} == {
        block.claims.all_fixes: [cell.soft_tokens]
    }
    assert set(block.cells_of(regime, block.seeds[0])) > set(own)
    unfrozen = {r for recipe in block.recipes.values() for r in recipe.regimes} - {
        *block.freeze.cells
    }
    assert all(block.seeds_of(other) == block.seeds for other in unfrozen)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"seeds": [1]}, "lack"),
        ({"cells": {"enrichment": {"soft_tokens": 3, "bar": "beats_both"}}}, "K = 3"),
        ({"cells": {"enrichment": {"soft_tokens": 8, "bar": "beats_all"}}}, "beats_both"),
    ],
)
def test_a_freeze_of_cells_that_are_not_trained_is_refused(over, said):
    with pytest.raises(ConfigError, match=said):
        load_study({"extends": "bridge.yaml", "bridge": {"freeze": over}}, CONFIG)


# ---- what compresses -----------------------------------------------------------------------------


def test_only_a_source_that_did_not_read_the_question_can_compress():
    claim = "it compresses a text"
    assert decisions(made(), costs_of())[claim] == "open"
    measured = costs_of(regime="query_agnostic")
    assert decisions(made("query_agnostic"), measured)[claim] == "supported"
    assert decisions(made("query_agnostic", all_fixes=0.5), measured)[claim] == "refuted"
    short = made("query_agnostic")
    short.alone["question_tokens"] = 8
    assert decisions(short, measured)[claim] == "refuted"  # as many soft tokens as text tokens


# ---- clusters ------------------------------------------------------------------------------------


def test_both_stones_of_a_question_are_its_clusters_and_codes_have_none():
    world = NumberWorld(bridge_study().bridge.world)
    for record in world.make_questions("enrichment", "test", 200):
        assert sorted(record["cluster"].split()) == sorted(record["question"].split()[2:])
    assert not any("cluster" in r for r in world.make_questions("compression", "test", 20))


def stones(count, rng):
    """Names of two stones out of `count` for each of N questions."""
    return [
        " ".join(rng.choice([f"s{i}" for i in range(count)], 2, replace=False)) for _ in range(N)
    ]


def test_questions_that_share_stones_are_no_independent_questions():
    rng = np.random.default_rng(2)
    names = stones(6, rng)
    known = {f"s{i}": i < 3 for i in range(6)}
    levels = {"all_fixes": 0.9, "no_fixes": 0.3, "source_free": 0.05}
    alone, shared = (
        sampling.Samples(*made_rows("enrichment", own, **levels)) for own in (("",) * N, names)
    )
    for samples in (alone, shared):  # right where both stones are known
        right = np.array([all(known[s] for s in name.split()) for name in names])
        rows = samples.cells.arm == "bridged"
        samples.cells.loc[rows, "correct"] = right[samples.cells[rows]["item"]].astype(int)
        samples.alone.loc[samples.alone.arm == "source_alone", "correct"] = 0
    assert alone.clusters("enrichment") is None
    assert shared.clusters("enrichment").shape == (N, 2)
    one, other = (
        tables.runs_table(s, "micro", 0.95).query("recipe == 'all_fixes' and k == 8").iloc[0]
        for s in (alone, shared)
    )
    assert one.accuracy == other.accuracy and (one.clusters, other.clusters) == (N, 6)
    assert one.design_effect == 1 and other.design_effect > 1.5
    assert other.p_source_alone > 10 * one.p_source_alone
    assert other.accuracy_high - other.accuracy_low > one.accuracy_high - one.accuracy_low


def test_the_variance_of_pairs_counts_every_two_items_that_share_a_stone_once():
    rng = np.random.default_rng(3)
    scores = (rng.random((2, 1, 80)) < 0.5) * 1.0
    groups = np.array([rng.choice(12, 2, replace=False) for _ in range(80)])
    found = paired_means([scores], 0.95, [groups]).items
    away = scores[:, 0] - scores.mean(axis=2)
    share = (groups[:, None, :, None] == groups[None, :, None, :]).any((2, 3))
    products = away @ share @ away.T
    assert np.linalg.eigvalsh(products).min() > 0
    n, g, z2 = 80, 12, 1.959963984540054**2
    wanted = (products * (g / (g - 1)) / (n / (n - 1)) + z2 / 4 * np.eye(2)) / (n * (n - 1))
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_two_equal_clusters_are_one():
    rng = np.random.default_rng(4)
    scores, groups = (rng.random((2, 3, 60)) < 0.5) * 1.0, rng.integers(9, size=60)
    one, two = (
        paired_means([scores], 0.95, [own]) for own in (groups, np.stack([groups, groups], axis=1))
    )
    np.testing.assert_allclose(one.items, two.items, rtol=1e-9)
    np.testing.assert_allclose(one.seeds, two.seeds, atol=1e-12)


def test_intervals_hold_the_truth_where_two_stones_decide_an_answer():
    """An answer is right where both stones are read right; stones are drawn from many."""
    rng, covered = np.random.default_rng(5), np.zeros(2)
    pairs = np.array([rng.choice(40, 2, replace=False) for _ in range(500)])
    for _ in range(200):
        read = rng.random(40) < 0.9
        right = read[pairs].all(axis=1)[None, None] * 1.0
        both = np.concatenate([np.zeros_like(right), right])
        for k, clusters in enumerate((pairs, None)):
            found = paired_means([both], 0.95, [clusters]).difference(1, 0).interval
            covered[k] += found.low <= 0.81 <= found.high
    assert covered[0] >= 176 and covered[1] <= 140
