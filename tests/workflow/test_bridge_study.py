"""Promises of the micro bridge on its frozen seeds, as `make demo-bridge` runs it."""

import json

import pandas as pd
import pytest
from conftest import Checkout, copy_of_the_repository

from ablation.vocabulary.bridge import REGIMES

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    checkout = Checkout(copy_of_the_repository(tmp_path_factory.mktemp("bridge")))
    done = checkout.make("demo-bridge")
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout


@pytest.fixture(scope="module")
def table(bridge):
    folder = bridge.folder / "results/micro/bridge"
    return lambda name: pd.read_csv(folder / f"{name}.csv")


def test_identity_says_what_the_target_says_and_golds_are_not_all_one(table, bridge):
    identity = table("controls").query("control == 'identity'")
    assert len(identity) and (identity.same_as_target_alone.astype(str).str.lower() == "true").all()
    for regime in REGIMES:
        file = bridge.folder / f"results/micro/bridge/questions/{regime}/test.jsonl"
        golds = [json.loads(line)["answer"] for line in file.read_text().splitlines()]
        assert max(map(golds.count, golds)) < 0.2 * len(golds)


def test_every_frozen_cell_has_its_row_and_a_bad_recipe_seldom_passes(table):
    freeze = table("freeze")
    assert (freeze.groupby("regime").seed.nunique() == 16).all() and freeze.regime.nunique() >= 2
    assert (freeze.chance_of_a_bad_recipe < 0.2).all()
    verdicts = table("claims").set_index(["claim", "regime"]).verdict["every frozen cell passes"]
    passed = freeze.groupby("regime").passes.agg(
        lambda own: own.astype(str).str.lower().eq("true").all()
    )
    assert (verdicts.eq("supported") == passed).all()


def test_in_enrichment_the_bridge_beats_both_models_in_every_seed(table):
    """Questions share stones, so p is robust to 40 clusters."""
    cells = table("freeze").query("regime == 'enrichment'")
    assert (cells.accuracy > cells[["source_alone", "target_alone"]].max(axis=1)).all()
    assert (cells[["p_source_alone", "p_target_alone"]] < 0.01).all(axis=None)
    assert (cells.clusters == 40).all() and (cells.design_effect > 1).all()


def test_in_compression_accuracy_rises_with_k_to_that_of_the_target(table):
    claims = table("claims").query("regime == 'compression'").set_index("claim")
    assert claims.p["quality trades against compression"] < 0.05
    assert claims.value["quality trades against compression"] > 0
    most = table("compression").query("regime == 'compression' and k == 16").iloc[0]
    assert most.accuracy >= 0.9 * most.target_alone


def test_a_text_answer_of_no_more_bytes_says_what_compression_says(table):
    """Where the source has read the question, soft tokens need not hold more than its answer."""
    messages = table("messages").query("regime == 'compression'").set_index(["k", "message"])
    for k in (8, 16):
        text, soft = messages.loc[(k, "text_answer")], messages.loc[(k, "float32")]
        assert text.bytes_max <= messages.bytes_max[k, "int4"]
        assert text.accuracy >= soft.accuracy - 0.02
    claims = table("claims").set_index(["claim", "regime"]).verdict
    assert claims["it compresses a text", "compression"] == "open"
    assert (claims["both caches together are smaller"] == "refuted").all()


def test_without_its_source_the_bridge_is_a_prompt_that_reads_none(table):
    shuffled = table("controls").query("control == 'shuffled_source'")
    assert (shuffled.source_free_difference.abs() < 0.05).all()


def test_every_removed_fix_has_its_change_and_interval(table):
    effects = table("effects").query("regime == 'compression'")
    fixes = ("no_fixes", "no_kl", "no_info_nce", "no_prompt_alignment", "no_early_stop")
    assert {*fixes, "no_hygiene"} <= set(effects.recipe)
    assert (effects.low <= effects.difference).all() and (effects.difference <= effects.high).all()


def test_the_cache_is_as_the_formula_says_and_latent_is_faster_than_the_cascade(table):
    costs = table("inference").query("regime == 'compression'").set_index("arm")
    assert set(costs.kv_as_formula.astype(str).str.lower()) == {"true"}
    assert costs.latency_sec_median["latent"] < costs.latency_sec_median["cascade"]
    assert costs.kv_cache_mb_mean["latent"] < costs.kv_cache_mb_mean["target_alone"]


def test_the_published_evaluator_scores_what_is_not_there(table):
    zero = table("audit").query("regime == 'compression' and soft_tokens == 'zero'")
    by = zero.groupby("evaluator").accuracy.mean()
    assert by["published"] > 0.5 > 0.05 > by["ours"]


def test_asking_again_runs_nothing(bridge):
    done = bridge.snakemake("-n", "--configfile", "config/bridge.yaml", "--", "bridge")
    assert "Nothing to be done" in done.stdout + done.stderr
