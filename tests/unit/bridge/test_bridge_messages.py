"""Promises of what the source sends, in bytes, and of what both models hold in their caches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.bridge.analysis import costs as cost_tables
from ablation.bridge.data.prompts import Question, answer_text
from ablation.bridge.evaluation.costs import costs_per_sample
from ablation.bridge.evaluation.generate import Generated
from ablation.bridge.evaluation.kv_cache import memory_facts
from ablation.bridge.evaluation.text_messages import (
    message_bytes,
    message_row,
    text_message,
    with_messages,
)
from ablation.bridge.evaluation.unbridged_arms import AnswerLimits, unbridged_rows
from ablation.bridge.model.translator import new_translator
from ablation.vocabulary.bridge import ARMS, SOFT_BITS, fewest_soft_token_bytes, soft_token_bytes
from tests.support.bridge_rows import costs_of, decisions, made_rows, sampling
from tests.support.bridge_tiny import RECORDS, pair, recipe

K, WIDTH = 2, 32


@pytest.fixture(scope="module")
def both():
    return pair()


@given(st.text(), st.integers(1, 64), st.integers(1, 4096))
def test_a_text_answer_has_no_more_bytes_than_soft_tokens_in_any_format(text, k, width):
    sent = message_bytes(text_message(text, fewest_soft_token_bytes(k, width)))
    assert all(sent <= soft_token_bytes(k, width, name) for name in SOFT_BITS)


@given(st.text(min_size=1), st.integers(0, 20))
def test_a_cut_text_is_the_beginning_of_the_text_and_still_text(text, most):
    message = text_message(f"#### {text}", most)
    assert message_bytes(message) <= most
    assert text_message(f"#### {text}", 10**6).startswith(message)


def test_bytes_of_soft_tokens_are_those_of_their_numbers_and_scales():
    sizes = [soft_token_bytes(16, 64, name) for name in ("float32", "float16", "int8", "int4")]
    assert sizes == [4096, 2048, 16 * (64 + 4), 16 * (32 + 4)]


def test_rows_of_a_text_answer_have_the_bytes_that_were_sent(both):
    rows = unbridged_rows(both, RECORDS, [1, K], AnswerLimits(max_new_tokens=16, eval_batch=5))
    sent = [row for row in rows if row["arm"] == "text_answer"]
    assert {row["k"] for row in sent} == {1, K}
    for row in sent:
        assert row["message_bytes"] <= fewest_soft_token_bytes(row["k"], WIDTH)
    longest = {k: max(row["message_bytes"] for row in sent if row["k"] == k) for k in (1, K)}
    assert 0 < longest[1] < longest[K]  # an untrained source does not stop, so it was cut


def test_an_answer_begins_with_the_message_and_the_text_is_not_read(both):
    words, question = both.target.encoder, Question("Then Tom gave 7 keys to Eve.", "How many?")
    row = message_row(words, question, "7")
    assert list(row.ids) == [
        *words.head,
        *words.encode("Problem:"),
        *words.encode(" How many?"),
        *words.suffix,
        *words.encode(answer_text("7")),
    ]
    said = Generated([" 8", "\nSo 7"], [2, 3], [True, True], None)
    assert with_messages(said, ["7", "7"]).texts == [" #### 7 8", " #### 7\nSo 7"]


def test_caches_of_both_models_add_up(both):
    translator = new_translator(recipe(), K, 48, both.target.model, 1)
    found = costs_per_sample(both, translator, recipe(), -1, RECORDS[:3], warm_up=0)
    facts = memory_facts(both)
    for sample in found:
        for arm in ARMS:
            cost = sample[arm]
            assert cost["both_kv_mb"] == pytest.approx(cost["kv_cache_mb"] + cost["source_kv_mb"])
        latent, read = sample["latent"], len(both.source.encoder.source_row(sample["question"]).ids)
        assert latent["source_kv_mb"] * 2**20 == read * facts["source_kv_bytes_a_token"]
        assert latent["message_bytes"] == soft_token_bytes(K, WIDTH, "float32")
        assert sample["text_answer"]["message_bytes"] <= fewest_soft_token_bytes(K, WIDTH)
        assert sample["text_answer"]["source_kv_mb"] == sample["cascade"]["source_kv_mb"] > 0
        assert sample["target_alone"]["both_kv_mb"] == sample["target_alone"]["kv_cache_mb"]
    table = cost_tables.inference_table(cost_tables.flatten({"x": found}, ARMS), "micro")
    latent = table.set_index("arm").loc["latent"]
    assert latent.both_kv_saved_mb == pytest.approx(latent.kv_saved_mb - latent.source_kv_mb_mean)


def test_a_source_that_needs_more_than_the_target_saves_refutes_the_saving_of_both():
    samples = sampling.Samples(*made_rows(all_fixes=0.9, no_fixes=0.3, source_free=0.05))
    measured = costs_of()
    assert decisions(samples, measured)["both caches together are smaller"] == "supported"
    measured.loc[measured.arm == "latent", "both_kv_mb"] = 9.0
    found = decisions(samples, measured)
    assert found["both caches together are smaller"] == "refuted"
    assert found["the target's cache is smaller"] == "supported"
