"""Promises of scoring families that compute otherwise, and of stock lm-eval's own mistake."""

import copy

import pytest
from lm_eval.models.huggingface import HFLM
from tokenizers import processors

from ablation.model.checkpoints import load
from ablation.scoring.masked_lm import MaskedLM
from tests.support.families import tiny_family, write_family
from tests.support.tiny import tiny_model
from tests.unit.scoring.test_scoring import PAIRS, assert_same_scores, ours, requests_of, stock

pytestmark = pytest.mark.usefixtures("one_thread")


def hflm(model, tokenizer, cache):
    settings = {"backend": "causal", "batch_size": 1, "logits_cache": cache}
    return HFLM(pretrained=model, tokenizer=tokenizer, **settings)


def test_equal_tokens_split_at_two_seams_are_scored_right_here_and_wrongly_by_a_stock_cache(
    tokenizer,
):
    """Stock HFLM reads the shorter continuation's logits from the beginning of the longer one's."""
    model = tiny_model("llama", vocabulary=len(tokenizer))
    requests = [(None, [1, 5, 6], [7, 8]), (None, [1, 5, 6, 7], [8]), (None, [1, 5, 6, 7], [9])]

    def scored(lm):
        return [score for score, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]

    right, wrong = (scored(hflm(model, tokenizer, cache)) for cache in (False, True))
    assert scored(MaskedLM(model, tokenizer)) == pytest.approx(right, abs=1e-4)
    moved = [abs(a - b) > 0.01 for a, b in zip(wrong, right, strict=True)]
    assert moved == [False, True, True]


def test_a_context_of_white_space_without_bos_is_refused_as_stock_refuses_it(tokenizer):
    no_bos = copy.deepcopy(tokenizer)
    no_bos.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    model = tiny_model("llama", vocabulary=len(tokenizer))
    with pytest.raises(AssertionError):
        stock(model, no_bos, [(" ", "Eve has it")])
    with pytest.raises(ValueError, match="request 0: its context is white space"):
        ours(model, no_bos, [(" ", "Eve has it")])
    ours(model, tokenizer, [(" ", "Eve has it")])


def test_texts_of_both_kinds_of_rotary_factors_are_in_no_forward_together(tokenizer):
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0, 7.0, 9.0, 20.0]}
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 20, "factor": 8.0}
    model = tiny_family("phi3", rope_parameters=rope | {"rope_theta": 1e4} | factors)
    long = "Tom gave the red key to Eve, because she asked. " * 2
    pairs = [("Eve has", " a"), (long, " Eve"), ("Eve has", f" {long}"), ("Eve has", " the key")]
    expected = hflm(model, tokenizer, False).loglikelihood(requests_of(pairs), disable_tqdm=True)
    for score, wanted in zip(ours(model, tokenizer, pairs)[1], expected, strict=True):
        assert score[0] == pytest.approx(wanted[0], abs=1e-3)


def test_rows_are_as_narrow_as_a_model_with_a_budget_of_keys_needs_them(tokenizer):
    model = tiny_family("doge", keep_window_size=48)
    short = [pair for pair in PAIRS if len(tokenizer.encode("".join(pair))) < 48]
    assert_same_scores(ours(model, tokenizer, short)[1], stock(model, tokenizer, short))
    with pytest.raises(ValueError, match="the model computes rows of 48 at most"):
        ours(model, tokenizer, [("naïve — " * 40, " 46")])


@pytest.mark.parametrize("family", ["modernbert-decoder", "rembert", "electra", "gptj"])
def test_a_head_of_several_layers_and_eager_attention_are_scored_as_stock(
    family, tokenizer, tmp_path
):
    model, own = load(write_family(tmp_path, family))
    pairs = [pair for pair in PAIRS if pair[0]]
    assert_same_scores(ours(model, own, pairs)[1], stock(model, own, pairs))
