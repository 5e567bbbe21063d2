"""Promises of scoring: stock lm_eval under `causal`, real inference under the other masks."""

import inspect

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import DynamicCache

from ablation.model.output_head import token_scores
from ablation.model.packing import Example, pack
from ablation.scoring.masked_lm import MaskedLM
from ablation.vocabulary.masks import MASKS
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

MAIN = ["ministral3", "llama", "qwen3"]


def requests_of(pairs):
    return [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]


CHOICES = [" Eve", " Tom and the red fox", " a", "é café", " Eve"]
PAIRS = [
    *(("The hawk chose Eve and the fox chose", choice) for choice in CHOICES),
    *(("Question: who has the key?\nAnswer:", choice) for choice in CHOICES[:3]),
    # WinoGrande's shape: the option is in the context, the continuation is common
    *((f"Then Tom gave the key to {name}", " because she asked.") for name in ("Eve", "Ann")),
    *(("A prompt with trailing spaces  ", choice.strip()) for choice in CHOICES[:2]),
    *(("", choice) for choice in ("Eve has it.", " a", "<s>Eve")),
    ("naïve — " * 40, " 46"),
    ("<s>The hawk", " chose"),
]


def ours(model, tokenizer, pairs=PAIRS, **options):
    lm = MaskedLM(model, tokenizer, **options)
    return lm, lm.loglikelihood(requests_of(pairs))


def stock(model, tokenizer, pairs=PAIRS, **options):
    settings = {"backend": "causal", "batch_size": 4, "logits_cache": False}  # docs/footguns.md
    lm = HFLM(pretrained=model, tokenizer=tokenizer, **settings, **options)
    return lm.loglikelihood(requests_of(pairs), disable_tqdm=True)


def assert_same_scores(found, expected, tolerance=1e-4):
    assert len(found) == len(expected)
    for index, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        assert abs(mine[0] - theirs[0]) <= tolerance, PAIRS[index]
        assert mine[1] == theirs[1], PAIRS[index]


# --- identity 4: stock lm_eval under causal -----------------------------------------------------


@pytest.mark.parametrize("architecture", [*MAIN, "mistral", "qwen3_sliding"])
@pytest.mark.parametrize("tie", [True, False])
def test_causal_scores_are_those_of_stock_hflm(architecture, tie, tokenizer):
    model = tiny_model(architecture, vocabulary=len(tokenizer), tie=tie)
    assert_same_scores(ours(model, tokenizer)[1], stock(model, tokenizer))


@pytest.mark.parametrize("add_bos_token", [None, True, False])
@pytest.mark.parametrize("max_length", [None, 12, 40])
def test_bos_and_truncation_are_those_of_stock_hflm(add_bos_token, max_length, tokenizer):
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    options = {"add_bos_token": add_bos_token, "max_length": max_length}
    pairs = [pair for pair in PAIRS if len(tokenizer.encode(pair[1])) <= 12]
    lm, found = ours(model, tokenizer, pairs, **options)
    assert_same_scores(found, stock(model, tokenizer, pairs, **options))
    truncated = lm.score([lm.encode(pairs)], len(pairs)).truncated
    assert truncated[pairs.index(PAIRS[-2])] == (max_length is not None)
    assert not truncated[pairs.index(("", " a"))]


def test_is_greedy_is_that_of_stock_hflm_where_greedy_decoding_is_right(tokenizer):
    model = tiny_model("llama", vocabulary=len(tokenizer))
    prompt = [1, 40, 41, 42]
    greedy = model.generate(
        torch.tensor([prompt]), max_new_tokens=4, do_sample=False, eos_token_id=-1
    )
    greedy = greedy[0, 4:].tolist()
    last_wrong, first_wrong = [*greedy[:3], (greedy[3] + 1) % 300], [greedy[0] + 1, *greedy[1:]]
    continuations = [greedy, greedy[:1], last_wrong, first_wrong]
    requests = [(None, prompt, continuation) for continuation in continuations]
    found = MaskedLM(model, tokenizer)._loglikelihood_tokens(requests)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1)
    expected = theirs._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [answer[1] for answer in found] == [True, True, False, False]
    assert [answer[1] for answer in expected] == [True, True, False, False]


def test_scores_do_not_depend_on_rows_and_batches(tokenizer):
    model = tiny_model("qwen3", vocabulary=len(tokenizer))
    for mask in MASKS:
        _, expected = ours(model, tokenizer, mask=mask)
        for row_tokens, batch_tokens in [(32, 32), (600, 5000), (1, 1)]:
            shape = {"row_tokens": row_tokens, "batch_tokens": batch_tokens}
            assert_same_scores(ours(model, tokenizer, mask=mask, **shape)[1], expected)


def test_out_of_memory_halves_the_rows_loses_nothing_and_is_recorded(tokenizer, monkeypatch):
    import ablation.scoring.masked_lm as module

    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    _, expected = ours(model, tokenizer)
    real, widths = module.score_rows, []

    def short_of_memory(model, rows, *options):
        widths.append(rows.input_ids.numel())
        if widths[-1] > 128 and len(widths) > 1:
            raise torch.OutOfMemoryError
        return real(model, rows, *options)

    monkeypatch.setattr(module, "score_rows", short_of_memory)
    lm, found = ours(model, tokenizer, row_tokens=256, batch_tokens=256)
    assert_same_scores(found, expected)
    assert widths[0] > 128 and lm.row_tokens < 256

    monkeypatch.setattr(
        module, "score_rows", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError)
    )
    with pytest.raises(torch.OutOfMemoryError):
        ours(model, tokenizer)


# --- the other masks, against token-by-token references -----------------------------------------


def reference_score(model, context, continuation, mask):
    """One continuation alone: a cache and single steps (prefill_bidir), or all at once (full)."""
    whole = torch.tensor([context + continuation])
    n = len(context) if mask == "prefill_bidir" else whole.shape[1]
    cache = DynamicCache()
    with torch.no_grad():
        logits = model(
            input_ids=whole[:, :n],
            attention_mask=torch.zeros(1, 1, n, n),  # eager: adds nothing, so hides nothing
            past_key_values=cache,
            use_cache=True,
        ).logits[0]
        if mask == "prefill_bidir":
            for position in range(n, whole.shape[1]):
                step = model(input_ids=whole[:, position : position + 1], past_key_values=cache)
                logits = torch.cat([logits, step.logits[0]])
    predicted = logits[len(context) - 1 : -1].log_softmax(-1)
    targets = whole[0, len(context) :]
    greedy = bool((predicted.argmax(-1) == targets).all())
    return float(predicted.gather(1, targets[:, None]).sum()), greedy


@pytest.mark.parametrize("architecture", MAIN)
@pytest.mark.parametrize("mask", ["prefill_bidir", "full_bidir"])
def test_ablated_scores_are_those_of_inference_and_of_one_leaky_forward(
    architecture, mask, tokenizer
):
    model = tiny_model(architecture, vocabulary=len(tokenizer))
    eager = tiny_model(architecture, vocabulary=len(tokenizer), attention="eager")
    lm, found = ours(model, tokenizer, mask=mask)
    expected = []
    for context, continuation in PAIRS:
        if context:
            encoded = lm._encode_pair(context, continuation)
        else:
            ids = tokenizer.encode(continuation, add_special_tokens=False)
            encoded = ([1], ids) if ids[0] != 1 else (ids[:1], ids[1:])
        expected.append(reference_score(eager, *encoded, mask))
    assert_same_scores(found, expected)
    causal = ours(model, tokenizer)[1]
    moved = [abs(a[0] - b[0]) > 1e-3 for a, b in zip(found, causal, strict=True)]
    assert sum(moved) > len(moved) / 2, "an ablated mask that changes nothing is not one"


def test_prompts_are_shared_by_whole_contexts_only_and_never_under_full_bidir(tokenizer):
    model = tiny_model("llama", vocabulary=len(tokenizer))
    requests = [(None, [1, 5, 6], [7]), (None, [1, 5, 9], [7]), (None, [1, 5, 6], [8, 9])]
    for mask, members in (("prefill_bidir", [[0, 2], [1]]), ("full_bidir", [[0], [1], [2]])):
        assert MaskedLM(model, tokenizer, mask=mask)._examples(requests)[1] == members


def test_many_choices_after_one_short_prompt_are_spread_over_rows(tokenizer):
    model = tiny_model("llama", vocabulary=len(tokenizer))
    lm = MaskedLM(model, tokenizer, row_tokens=32)
    examples, members, _ = lm._examples([(None, [1], [5, 6, 7, 8, 9])] * 40)
    assert sum(map(len, members)) == 40
    assert all(len(e.prompt) + sum(len(c) - 1 for c in e.continuations) <= 32 for e in examples)


def test_a_one_token_choice_leaks_under_full_bidir(tokenizer):
    """Its only token is its last: a row without it, as in stock HFLM, would show nothing."""
    model = tiny_model("llama", vocabulary=len(tokenizer))
    requests = [(None, [1, 5, 6], [7])]
    full = MaskedLM(model, tokenizer, mask="full_bidir")._loglikelihood_tokens(requests)
    prefill = MaskedLM(model, tokenizer, mask="prefill_bidir")._loglikelihood_tokens(requests)
    assert abs(full[0][0] - prefill[0][0]) > 1e-2


def test_what_cannot_be_scored_is_refused(tokenizer):
    model = tiny_model("llama", vocabulary=len(tokenizer))
    lm = MaskedLM(model, tokenizer, max_length=4)
    with pytest.raises(ValueError, match="request 0: a continuation of 0 tokens"):
        lm._loglikelihood_tokens([(None, [1, 5], [])])
    with pytest.raises(ValueError, match="5 tokens cannot be scored .* expected 1 to 4"):
        lm._loglikelihood_tokens([(None, [1, 5], [5] * 5)])
    with pytest.raises(ValueError, match="unknown mask 'prefix'"):
        MaskedLM(model, tokenizer, mask="prefix")
    with pytest.raises(ValueError, match="unknown protocol 'seed'"):
        MaskedLM(model, tokenizer, protocol="seed")


def test_bfloat16_logits_are_rounded_as_by_a_scorer_in_bfloat16(tokenizer):
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    rows = pack([Example([1, 5, 6], [[7, 8, 9]])], capacity=8)
    with torch.no_grad():
        logits = model(input_ids=rows.input_ids).logits[0, 2:5].bfloat16()
    rounded = logits.log_softmax(-1)[[0, 1, 2], [7, 8, 9]].sum()
    assert rounded.dtype == torch.bfloat16
    lm = MaskedLM(model, tokenizer, logits_dtype="bfloat16")
    assert lm._loglikelihood_tokens([(None, [1, 5, 6], [7, 8, 9])])[0][0] == float(rounded)


def test_of_equal_logits_the_first_is_greedy_as_argmax_has_it():
    logits = torch.tensor([[1.0, 3.0, 3.0], [5.0, 0.0, 5.0]]).bfloat16()
    rows, tokens = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 2, 0, 0, 2])
    assert token_scores(logits, rows, tokens)[1].tolist() == [True, False, False, True, False]


# --- rolling and generation -----------------------------------------------------------------------


def test_rolling_is_stock_under_causal_and_refused_elsewhere(tokenizer):
    model = tiny_model("llama", vocabulary=len(tokenizer))
    texts = [Instance("loglikelihood_rolling", {}, (text,), 0) for text, _ in PAIRS if text.strip()]
    lm = MaskedLM(model, tokenizer, max_length=16)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", max_length=16)
    expected = theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    torch.testing.assert_close(lm.loglikelihood_rolling(texts), expected, atol=1e-3, rtol=0)
    lm.mask = "prefill_bidir"
    with pytest.raises(ValueError, match="loglikelihood_rolling under mask 'prefill_bidir'"):
        lm.loglikelihood_rolling(texts)


PROMPTS = ["The hawk chose Eve and the fox", "Question: who", "naïve café — 12 + 34 =", "a"]


def generation_requests(new_tokens):
    settings = {"until": [], "max_gen_toks": new_tokens, "do_sample": False}
    return [Instance("generate_until", {}, (prompt, settings), 0) for prompt in PROMPTS]


def generated_by_hand(architecture, tokenizer, prompt, new_tokens):
    """A bidirectional prefill, then stock steps by argmax, one prompt at a time, eager."""
    model = tiny_model(architecture, vocabulary=len(tokenizer), attention="eager")
    ids = tokenizer.encode(prompt)
    n, cache, made = len(ids), DynamicCache(), []
    window = model.config.sliding_window if architecture == "mistral" else 10**6
    distance = (torch.arange(n)[:, None] - torch.arange(n)[None]).abs()
    mask = torch.where(distance < window, 0.0, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        output = model(torch.tensor([ids]), attention_mask=mask, past_key_values=cache)
        for _ in range(new_tokens):
            made.append(int(output.logits[0, -1].argmax()))
            if made[-1] == tokenizer.eos_token_id:
                break
            output = model(torch.tensor([made[-1:]]), past_key_values=cache)
    return tokenizer.decode(made, skip_special_tokens=True)


@pytest.mark.parametrize("architecture", [*MAIN, "mistral"])
@pytest.mark.parametrize("batch_tokens", [256, 1024])
def test_generation_decodes_stock_after_a_masked_prefill(architecture, batch_tokens, tokenizer):
    model = tiny_model(architecture, vocabulary=len(tokenizer))
    lm = MaskedLM(model, tokenizer, mask="prefill_bidir", batch_tokens=batch_tokens)
    found = lm.generate_until(generation_requests(12), disable_tqdm=True)
    expected = [generated_by_hand(architecture, tokenizer, p, 12) for p in PROMPTS]
    assert found == expected
    lm.mask = "full_bidir"
    assert lm.generate_until(generation_requests(12), disable_tqdm=True) == expected
    lm.mask = "causal"
    causal = lm.generate_until(generation_requests(12), disable_tqdm=True)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=lm.batch_size)
    assert causal == theirs.generate_until(generation_requests(12), disable_tqdm=True)
    assert causal != found


def test_beams_cannot_start_from_a_masked_prefill(tokenizer):
    lm = MaskedLM(tiny_model("llama", vocabulary=len(tokenizer)), tokenizer, mask="prefill_bidir")
    request = Instance("generate_until", {}, ("Eve", {"max_gen_toks": 2, "num_beams": 2}), 0)
    with pytest.raises(ValueError, match="num_beams > 1"):
        lm.generate_until([request], disable_tqdm=True)
    lm.model.generation_config.num_beams = 2  # a model's own default
    with pytest.raises(ValueError, match="num_beams > 1"):
        lm.generate_until(generation_requests(2), disable_tqdm=True)


def test_stock_behaviour_that_is_relied_upon_is_still_there():
    """HFLM calls these hooks; if a release renames them, ours would be silently unused."""
    for hook in ("_loglikelihood_tokens", "_model_generate", "loglikelihood_rolling"):
        assert callable(getattr(HFLM, hook))
    assert "self._model_generate(" in inspect.getsource(HFLM.generate_until)
    assert "self._loglikelihood_tokens(" in inspect.getsource(HFLM.loglikelihood_rolling)
