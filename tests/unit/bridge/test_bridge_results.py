"""Promises of arms, controls, costs, tables and claims of the second study."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablation.bridge.analysis import comparisons, costs, published, tables
from ablation.bridge.analysis import samples as sampling
from ablation.bridge.data.prompts import Question
from ablation.bridge.report import figures, pages
from ablation.report.charts import render
from ablation.vocabulary.bridge import ARMS, CONTROLS
from tests.support.bridge_rows import CLAIMS, ROUNDED, N, costs_of, decisions, made_rows
from tests.support.bridge_tiny import RECORDS, pair, recipe, split

ROOT = Path(__file__).resolve().parents[3]


# ---- arms, controls and costs, on tiny models ----------------------------------------------------


@pytest.fixture(scope="module")
def both():
    return pair()


def test_identity_pass_through_says_word_for_word_what_the_target_says(both):
    from ablation.bridge.evaluation.unbridged_arms import AnswerLimits, unbridged_rows

    limits = AnswerLimits(max_new_tokens=6, eval_batch=3)
    rows = pd.DataFrame(unbridged_rows(both, RECORDS, [2], limits))
    said = {arm: own.text.tolist() for arm, own in rows.groupby("arm")}
    assert said["identity"] == said["target_alone"]
    assert said["identity"] != said["source_alone"]
    assert set(said) == set(sampling.ALONE)


def test_no_question_keeps_its_own_source_when_sources_are_shuffled():
    from ablation.bridge.evaluation.soft_variants import shuffled_order

    for count in (2, 5, 50):
        order = shuffled_order(count)
        assert sorted(order) == list(range(count)) and all(i != j for i, j in enumerate(order))


@pytest.mark.parametrize(("bits", "error"), [(8, 0.004), (4, 0.08)])
def test_rounding_costs_at_most_half_a_step(bits, error):
    import torch

    from ablation.bridge.evaluation.soft_variants import quantize

    soft = torch.randn(2, 3, 64)
    rounded = quantize(soft, bits)
    assert ((rounded - soft).abs().amax(-1) / soft.abs().amax(-1)).max() <= error
    assert all(len(row.unique()) <= 2**bits for row in rounded.flatten(0, 1))


def test_a_cell_is_asked_with_its_best_weights_and_with_every_control(both):

    from ablation.bridge.evaluation.evaluate_cell import evaluate_cell
    from ablation.bridge.model.translator import new_translator

    own, made = split(both), recipe(audit=True)
    translator = new_translator(made, 2, 48, both.target.model, 1)
    weights = {
        n: {k: v.clone() for k, v in translator.state_dict().items()} for n in ("best", "last")
    }
    rows = pd.DataFrame(evaluate_cell(both.target, translator, weights, made, own, own.activations))
    assert {"bridged", "bridged_last", *ROUNDED, *CONTROLS} <= set(rows.arm)
    assert (rows.groupby("arm").size() == len(RECORDS)).all()
    said = rows.set_index(["arm", "item"]).text
    assert (said.bridged == said.bridged_last).all()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_cache_holds_what_the_formula_says(heads):
    from ablation.bridge.evaluation.generate import generate
    from ablation.bridge.evaluation.kv_cache import cache_bytes, cache_formula
    from ablation.bridge.model.pair import FrozenModel
    from ablation.bridge.model.prompt_encoder import PromptEncoder
    from tests.support.tiny import tiny_model, tiny_tokenizer

    words = PromptEncoder(tiny_tokenizer(), 64)
    model = tiny_model("llama", 320, num_key_value_heads=heads)
    row = words.text_row(Question.of(RECORDS[0]))
    made = generate(FrozenModel(model, words), [row], max_new_tokens=5, batch_size=1)
    tokens = len(row.ids) + made.lengths[0] - 1
    assert cache_bytes(made.cache) == cache_formula(model.config, tokens, 4)
    assert cache_bytes(made.cache) == 2 * 2 * heads * 8 * 4 * tokens


@pytest.mark.parametrize("shape", ["Mistral", "Llama"])
def test_a_token_of_the_published_models_costs_an_eighth_of_a_mebibyte(shape):
    import transformers

    from ablation.bridge.evaluation.kv_cache import cache_formula
    from ablation.bridge.model.forwards import MIB

    config = getattr(transformers, f"{shape}Config")(
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    assert cache_formula(config, 1, 2) / MIB == 0.125  # published as 0.5


def test_every_arm_is_measured_on_every_question(both):

    from ablation.bridge.evaluation.costs import costs_per_sample
    from ablation.bridge.model.translator import new_translator

    made = recipe()
    translator = new_translator(made, 2, 48, both.target.model, 1)
    found = costs_per_sample(both, translator, made, -1, RECORDS[:2], warm_up=0)
    for sample in found:
        assert set(ARMS) <= set(sample)
        for arm in ARMS:
            cost = sample[arm]
            assert cost["kv_cache_mb"] == cost["kv_formula_mb"] > 0 and cost["latency_sec"] > 0
        assert sample["latent"]["soft_tokens"] == 2
        assert sample["latent"]["input_len"] < sample["target_alone"]["input_len"]
        assert sample["cascade"]["source_kv_mb"] > 0 == sample["target_alone"]["source_kv_mb"]
    frame = costs.flatten({"compression": found}, ARMS)
    table = costs.inference_table(frame, "micro").set_index("arm")
    assert set(table.kv_as_formula) == {"true"} and table.kv_saved_mb["latent"] > 0


def test_every_arm_is_the_first_on_as_many_questions(both, monkeypatch):
    from ablation.bridge.evaluation import costs as measuring
    from ablation.bridge.model.translator import new_translator

    order = []

    def measured(pair, run, question):
        order.append((question, run.__name__))
        return measuring.Cost("", 1, 1, 1.0, 1.0, 0.0, 1.0, 0, 1.0, None, None)

    monkeypatch.setattr(measuring, "measure", measured)
    made = recipe()
    translator = new_translator(made, 2, 48, both.target.model, 1)
    records = [{"question": str(n), "answer": "1"} for n in range(2 * len(ARMS))]
    measuring.costs_per_sample(both, translator, made, -1, records, warm_up=0)
    first = [order[turn][1] for turn in range(0, len(order), len(ARMS))]
    assert {first.count(arm) for arm in measuring.ARMS} == {2}
    assert len(set(order)) == len(order) == 2 * len(ARMS) ** 2


def test_the_published_evaluator_reads_the_last_number_and_ours_does_not():
    from ablation.bridge.data.answers import extract_answer
    from ablation.bridge.evaluation.published_evaluator import last_number, leaky_correct

    assert last_number("$18= $18= and 7") == "7" and extract_answer("$18= $18= and 7") is None
    assert leaky_correct("so 1 3", "1 3") and leaky_correct("#### 13 and 4", "13")


# ---- tables, from made-up rows ----------------------------------------------------------------


@pytest.fixture(scope="module")
def samples():
    return sampling.Samples(*made_rows(all_fixes=0.9, no_fixes=0.3, source_free=0.05))


def test_every_row_names_its_configuration_and_two_ablations_of_one_are_refused(samples):
    runs = tables.runs_table(samples, "micro", 0.95)
    assert runs.config.is_unique and len(runs) == 24
    cells, alone, summary = made_rows(all_fixes=0.9, no_kl=0.9)
    with pytest.raises(sampling.SameConfiguration, match="all_fixes and no_kl have one"):
        sampling.Samples(cells.assign(config="one"), alone, summary)


def test_runs_are_reported_once_on_test_with_interval_and_paired_tests(samples):
    run = (
        tables.runs_table(samples, "micro", 0.95).query("recipe == 'all_fixes' and k == 8").iloc[0]
    )
    assert run.accuracy_low < run.accuracy < run.accuracy_high and run.n == N
    assert run.p_source_alone < 0.01 < run.p_target_alone
    assert run.degradation == pytest.approx(0.45) and run.tests_a_bridge == "true"


def test_effects_stand_there_with_their_interval_also_when_nil(samples):
    effects = tables.effects_table(samples, CLAIMS, "micro", 0.95)
    found = effects.query("recipe == 'no_fixes' and weights == 'best'").iloc[0]
    assert found.low < found.difference < found.high < 0
    same = comparisons.compare(np.ones((2, 9)), np.ones((2, 9)), 0.95)
    assert same["difference"] == 0 and same["low"] < 0 < same["high"] and same["p"] == 1
    assert same["design_effect"] == 1


def test_compression_is_tokens_replaced_over_k(samples):
    bytes_a_token = {"compression": (2**20, 2**19)}
    table = tables.compression_table(samples, CLAIMS, bytes_a_token, "micro", 0.95)
    assert table.compression.tolist() == [20, 5] and table.kv_saved_mib.tolist() == [38, 32]
    assert set(table.source_kv_mib) == {20.5} and table.both_kv_saved_mib.tolist() == [17.5, 11.5]
    assert (table.accuracy_low <= table.accuracy).all()


def test_trends_are_seen_where_there_are_some():
    rng = np.random.default_rng(1)
    rising = [(rng.random((3, 200)) < p).astype(float) for p in (0.1, 0.5, 0.9)]
    flat = [(rng.random((3, 200)) < 0.5).astype(float) for _ in range(3)]
    up, level = (comparisons.trend(scores, [1, 4, 16], 0.95) for scores in (rising, flat))
    assert up["p"] < 0.005 < 0.01 < level["p"]
    assert comparisons.trend(rising[::-1], [1, 4, 16], 0.95)["difference"] < 0
    wide = comparisons.trend(flat, [1, 4, 16], 0.999)
    assert wide["low"] < level["low"] < level["high"] < wide["high"]


def test_a_trend_of_one_seed_in_three_is_none():
    """Over questions alone it would be one: p < 1e-10."""
    rng = np.random.default_rng(2)
    of_seed = [(0.5, 0.5, 0.1), (0.5, 0.5, 0.9)]
    scores = [(rng.random((3, 500)) < np.array(p)[:, None]).astype(float) for p in of_seed]
    found = comparisons.trend(scores, [1, 16], 0.95)
    assert found["difference"] > 0 and found["low"] < 0 and found["p"] > 0.05


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_what_is_the_same_at_every_k_has_no_trend(right):
    found = comparisons.trend([np.full((3, 50), right)] * 4, [16, 32, 48, 64], 0.95)
    assert found["difference"] == pytest.approx(0, abs=1e-12)
    assert found["low"] < 0 < found["high"] and found["p"] > 0.999


def test_every_message_has_its_bytes_and_is_compared_with_soft_tokens_as_they_are(samples):
    table = tables.messages_table(samples, CLAIMS, {"compression": 64}, "micro", 0.95)
    found = table.query("k == 8").set_index("message")
    assert list(found.index) == ["float32", *ROUNDED, "text_answer", "text"]
    wanted = [8 * 64 * 4, 8 * 64 * 2, 8 * (64 + 4), 8 * (32 + 4), 5, 90]
    assert found.bytes_max.tolist() == found.bytes_mean.tolist() == wanted
    assert found.difference["float32"] == 0 and found.accuracy["text_answer"] > 0.6


def test_claims_are_decided_by_rows(samples):
    found = decisions(samples, costs_of())
    assert found["beats the source alone"] == "supported"
    assert found["beats the target alone"] == "open"
    assert found["stability fixes work"] == "supported"
    assert found["faster than the cascade"] == "supported"
    assert found["the target's cache is smaller"] == "supported"
    assert found["both caches together are smaller"] == "supported"
    assert decisions(samples, costs_of(latent=9.0))["faster than the cascade"] == "refuted"
    worse = sampling.Samples(*made_rows(all_fixes=0.3, no_fixes=0.9, source_free=0.05))
    assert decisions(worse, costs_of())["stability fixes work"] == "refuted"
    assert decisions(worse, costs_of())["beats the target alone"] == "refuted"
    neither = sampling.Samples(*made_rows(all_fixes=0.3, no_fixes=0.3, source_free=0.05))
    assert decisions(neither, costs_of())["stability fixes work"] == "refuted"  # below the bar


def test_claims_are_open_where_their_interval_does_not_decide(samples):
    one = costs_of()[lambda frame: frame.sample_id == 0]
    assert decisions(samples, one)["faster than the cascade"] == "open"  # of one question
    near = sampling.Samples(*made_rows(all_fixes=0.8, no_fixes=0.3, source_free=0.05))
    assert decisions(near, costs_of())["the largest K keeps the quality"] == "open"
    at_the_bar = sampling.Samples(*made_rows(all_fixes=0.72, no_fixes=0.3, source_free=0.05))
    assert decisions(at_the_bar, costs_of())["stability fixes work"] == "open"  # its bar is .7
    far = sampling.Samples(*made_rows(all_fixes=0.3, no_fixes=0.3, source_free=0.05))
    assert decisions(far, costs_of())["the largest K keeps the quality"] == "refuted"


def test_identity_is_judged_by_every_word_and_a_leftover_of_the_source_refutes():
    cells, alone, summary = made_rows(all_fixes=0.9, no_fixes=0.3, source_free=0.05)
    same = "its own embeddings say what the text says"
    assert decisions(sampling.Samples(cells, alone, summary), costs_of())[same] == "supported"
    one = (alone.arm == "identity") & (alone["item"] == 7)
    alone.loc[one, "text"] += "."  # as right as before, and not the same words
    answered = cells.copy()
    answered.loc[answered.arm == "shuffled_source", "correct"] = 1
    found = decisions(sampling.Samples(answered, alone, summary), costs_of())
    assert found[same] == "refuted"
    assert found["another question's source says nothing"] == "refuted"


def test_the_demonstration_of_the_leak_says_that_it_is_built():
    cells, alone, summary = made_rows(no_fixes=0.9)
    named = ("published_evaluator", "published_evaluator_zero_soft_tokens")
    kept = dict(zip(("bridged", *CONTROLS[:1]), named, strict=True))
    kept |= {"bridged_last": "bridged_last", CONTROLS[1]: "bridged_last_zero_soft_tokens"}
    audited = cells[cells.arm.isin(kept)].replace({"arm": kept})
    audit = tables.audit_table(sampling.Samples(audited, alone, summary), "micro", 0.95)
    assert len(audit) == 32 and audit.note.str.contains("built demonstration").all()
    shown = pages.published(audit, published.runs_table(RUNS), published.repeats_table(RUNS, 0.95))
    assert "three in ten" in shown
    page = (ROOT / "docs/bridge.md").read_text("utf-8")
    assert "demonstration was constructed" in " ".join(page.split())


# ---- published runs ------------------------------------------------------------------------------


RUNS = json.loads((ROOT / "resources/published/bridge.json").read_text())["runs"]


def test_published_runs_are_the_logs_and_most_test_no_bridge():
    table = published.runs_table(RUNS).set_index("run")
    assert len(table) == 42 and (table.tests_a_bridge == "true").sum() == 8
    assert table.loc["85_high_capacity", ["peak", "final"]].tolist() == [0.815, 0.36]
    assert "gold" in table.why_not["85_high_capacity"]
    assert table.degradation["ablC_kl_prompt"] == pytest.approx(-0.04)
    assert np.isnan(table.final["nov13_1d_dit_cfg_soft_plus_text"])
    valid = table[table.tests_a_bridge == "true"]
    assert set(valid["mode"]) == {"soft_only"} and valid.peak.max() < 0.05


def test_three_published_ablations_are_repeats_of_one_configuration():
    table = published.repeats_table(RUNS, 0.95)
    three = table[table.run.isin(["phase1_all_fix", "ablB_kl_only"]) & (table.step == "final")]
    assert len(three) == 3 and ((three.low < 0) & (three.high > 0)).all()


@pytest.mark.parametrize(
    ("right", "n"), [((10, 20), (40, 40)), ((0, 40), (40, 40)), ((0, 0), (5, 5))]
)
def test_two_proportion_intervals_hold_the_difference(right, n):
    found = published.difference_interval(right, n, 0.95)
    assert found["low"] <= found["difference"] <= found["high"] and found["low"] < found["high"]


# ---- figures -------------------------------------------------------------------------------------


def test_figures_are_drawn_from_tables_and_equal_for_equal_tables(samples):
    runs = tables.runs_table(samples, "micro", 0.95)
    chart = render(figures.accuracy_by_k(runs, "all_fixes"), ".svg")
    assert b"<svg" in chart and chart == render(figures.accuracy_by_k(runs, "all_fixes"), ".svg")
    renamed = runs.assign(recipe=runs.recipe.replace("all_fixes", "mine"))
    assert chart == render(figures.accuracy_by_k(renamed, "mine"), ".svg")
    frame = costs_of().assign(study="micro", em=0.5, num_samples=20)
    kept = {name: f"{name}_mean" for name in ("kv_cache_mb", "both_kv_mb")}
    frame = frame.rename(columns=kept)
    frame["latency_sec_median"] = frame.latency_sec
    assert b"<svg" in render(figures.quality_and_cost(frame), ".svg")
    looks = [
        {"study": "micro", "regime": "compression", "recipe": "all_fixes", "k": 8, "seed": 1}
        | {"step": step, "accuracy": accuracy, "eval_loss": 1 / step}
        for step, accuracy in ((2, 0.5), (4, 0.5), (6, 0.25))
    ]
    curves = figures.bridge_curves(pd.DataFrame(looks))
    assert b"<svg" in render(curves, ".svg")
    drawn = [row for rows in curves.to_dict()["datasets"].values() for row in rows]
    [peak] = [row for row in drawn if row.get("point") == "peak"]
    assert peak["step"] == 4  # of equals the one whose weights are reported: the lower loss
    assert b"no rows" in render(figures.accuracy_by_k(runs[:0], "all_fixes"), ".svg")
