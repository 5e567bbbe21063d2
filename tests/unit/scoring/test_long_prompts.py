"""Promises of long prompts: windows and masks of thousands of tokens, in pieces, change nothing."""

import pytest
import torch

import ablation.model.masks as masks
import ablation.scoring.encoding as encoding
from ablation.data import needles
from ablation.model.masks import TakenWindow, attention_mask, take_window
from ablation.model.packing import Example, pack
from ablation.scoring.masked_lm import MaskedLM
from ablation.vocabulary.masks import MASKS
from tests.support.tiny import ids, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT, WINDOW = 1300, 40  # longer than the queries of a mask that are computed together


def dense_reference(model, prompt, continuation, mask, window):
    """The log-likelihood of one continuation by eager attention under a mask written by hand."""
    n, whole = len(prompt), [*prompt, *continuation]
    query, key = torch.meshgrid(torch.arange(len(whole)), torch.arange(len(whole)), indexing="ij")
    hidden = key > query
    if mask == "prefill_bidir":
        hidden &= (query >= n) | (key >= n)
    if window:
        hidden |= ((query - key).abs() >= window) & (query < n)
    added = hidden[None, None] * torch.finfo(torch.float32).min
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([whole]), attention_mask=added).logits[0]
    logprobs = logits[n - 1 : -1].log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(continuation)[:, None]).sum().item()


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("mask", ["causal", "prefill_bidir"])
def test_a_long_prompt_scores_as_a_dense_mask_written_by_hand(mask, window, tokenizer):
    options = {"vocabulary": len(tokenizer), "max_position_embeddings": 2048}
    model = tiny_model("llama", **options)
    by_hand = tiny_model("llama", attention="eager", **options)
    if window:
        take_window(model, TakenWindow(window, "prefill"))
    prompt, choices = ids(PROMPT, 1), [ids(5, 2), ids(1, 3), ids(3, 4)]
    requests = [(None, prompt, choice) for choice in choices]
    found = MaskedLM(model, tokenizer, mask=mask)._loglikelihood_tokens(requests)
    expected = [dense_reference(by_hand, prompt, choice, mask, window) for choice in choices]
    assert [score for score, _ in found] == pytest.approx(expected, abs=2e-4)


def test_the_window_of_that_comparison_matters(tokenizer):
    model = tiny_model("llama", attention="eager", max_position_embeddings=2048)
    scores = {dense_reference(model, ids(PROMPT, 1), ids(5, 2), "causal", w) for w in (None, 40)}
    assert abs(max(scores) - min(scores)) > 0.01


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mask", MASKS)
def test_a_dense_mask_in_pieces_is_the_whole_mask(mask, attention, monkeypatch):
    rows = pack([Example(ids(n, n), [ids(3, 1), ids(2, 2)]) for n in (30, 7, 21)], 40, width=50)
    model = tiny_model("qwen3_sliding", attention=attention)
    take_window(model, TakenWindow(9, "prefill"))
    whole = attention_mask(model, mask, rows)
    for queries in (1, 16, 49):
        monkeypatch.setattr(masks, "QUERIES", queries)
        pieces = attention_mask(model, mask, rows)
        assert pieces.keys() == whole.keys()
        assert all(torch.equal(pieces[kind], whole[kind]) for kind in whole)


@pytest.mark.parametrize("protocol", ["lm_eval", "published"])
@pytest.mark.parametrize("together", [1, 60, 200])
def test_requests_encoded_in_parts_are_encoded_as_one(together, protocol, tokenizer, monkeypatch):
    prompts = ["", "The hawk chose", "naïve — " * 12, "Then Eve  "]
    requests = [(prompt, f" {choice}") for prompt in prompts for choice in ("Tom", "é café")]
    lm = MaskedLM(tiny_model("llama", vocabulary=len(tokenizer)), tokenizer, protocol=protocol)
    whole, texts = lm.encode(requests), []
    real = lm._encode_strings
    monkeypatch.setattr(
        lm, "_encode_strings", lambda part: texts.append(sum(map(len, sum(part, ())))) or real(part)
    )
    monkeypatch.setattr(encoding, "TOGETHER", together)
    assert lm.encode(requests) == whole
    longest = max(map(len, ("".join(request) for request in requests)))
    assert len(texts) > 1 and max(texts) < together + longest


@pytest.mark.parametrize("position, seen", [("early", False), ("middle", False), ("late", True)])
def test_a_needle_beyond_a_window_of_all_layers_changes_no_score(position, seen, tokenizer):
    """Two layers with a window of 400 tokens reach 798 back, less than half of 3,000."""

    def lengths(texts):
        return [len(ids) for ids in tokenizer(list(texts))["input_ids"]]

    (item,) = needles.items(3000, position, 1, 1, lengths)
    code, others = item["choices"][item["gold"]], set(item["choices"])
    moved = next(str(n) for n in range(10_000, 99_999) if str(n) not in others)
    queries = [item["query"], item["query"].replace(code, moved)]
    model = tiny_model("llama", vocabulary=len(tokenizer), max_position_embeddings=4096)

    def scores():
        lm = MaskedLM(model, tokenizer)
        requests = [(query, f" {choice}") for query in queries for choice in item["choices"]]
        found = lm.score([lm.encode(requests)], len(requests))
        assert not found.truncated.any()
        return found.loglikelihood[: len(others)], found.loglikelihood[len(others) :]

    before, after = scores()
    assert (before != after).all()
    take_window(model, TakenWindow(400, "everywhere"))
    before, after = scores()
    assert (before != after).all() if seen else (before == after).all()
