"""Promises of the masks: the traps of docs/masks.md are real, and not fallen into; refusals."""

import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch.nn.functional import cross_entropy
from transformers.masking_utils import create_causal_mask

from ablation.model.checks.supported import UnsupportedArchitecture, refuse_unsupported
from ablation.model.forward import target_logits
from ablation.model.leak_audit import MaskNotObeyed, leak_audit
from ablation.model.masks import attention_mask, rule
from ablation.model.packing import Example, pack
from ablation.scoring.masked_lm import MaskedLM
from ablation.vocabulary.masks import MASKS
from tests.support.tiny import ARCHITECTURES, ids, logprobs, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def logits(model, **inputs):
    with torch.no_grad():
        return model(use_cache=False, **inputs).logits


def first_moves(model, **inputs):
    """Whether the first token's logits change with the last prompt token: is it bidirectional?"""
    prompt = torch.tensor([ids(6, 1)])
    other = prompt.clone()
    other[0, -1] += 1
    base = logits(model, input_ids=prompt, **inputs)
    return bool(((logits(model, input_ids=other, **inputs) - base)[0, 0].abs() > 1e-4).any())


def test_trap_is_causal_false_is_silently_causal_with_padding_and_under_eager():
    padding = {"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1]])}
    for attention in ("sdpa", "eager"):
        model = tiny_model("llama", attention=attention)
        for layer in model.model.layers:
            layer.self_attn.is_causal = False
        second = padding["attention_mask"].argmax().item()
        prompt = torch.tensor([ids(6, 1)])
        other = prompt.clone()
        other[0, -1] += 1
        padded = logits(model, input_ids=other, **padding) - logits(
            model, input_ids=prompt, **padding
        )
        assert padded[0, second].abs().max() == 0
        assert first_moves(model) == (attention == "sdpa")


def test_trap_a_boolean_mask_hides_nothing_from_eager():
    model = tiny_model("llama", attention="eager")
    rows = pack([Example(ids(6, 1), [ids(3, 2)])], capacity=16)
    ready = attention_mask(model, "causal", rows)
    assert ready.dtype == torch.float32
    inputs = {"input_ids": rows.input_ids, "position_ids": rows.position_ids}
    right = logits(model, attention_mask=ready, **inputs)
    wrong = logits(model, attention_mask=ready == 0, **inputs)
    assert (right - logits(model, **inputs)).abs().max() < 1e-4
    assert (wrong - right).abs().max() > 0.5


def test_trap_a_query_that_sees_nothing_is_nan_and_spreads_under_eager(attention):
    model = tiny_model("ministral3", attention=attention)
    rows = pack([Example(ids(4, 1), [ids(2, 2)])], capacity=8, width=40)
    for mask in MASKS:
        ready = attention_mask(model, mask, rows)
        out = logits(model, input_ids=rows.input_ids, attention_mask=ready)
        assert out.isfinite().all()
    if attention == "eager":
        real = rows.doc[0] >= 0
        blind = torch.where(real[:, None] & real[None, :], 0.0, -torch.inf)[None, None]
        out = logits(model, input_ids=rows.input_ids, attention_mask=blind)
        assert out[0, real].isnan().all(), "0 * NaN: padding values reach the real tokens"


def test_trap_windows_in_columns_instead_of_positions_are_wrong_on_shared_rows():
    model = tiny_model("mistral")
    example = Example(ids(6, 1), [ids(4, 2), ids(4, 3)])
    rows = pack([example], capacity=64)
    columns = torch.arange(rows.input_ids.shape[1])[None]
    in_columns = rule("causal", rows.doc, rows.branch, columns, window=5)
    zero = torch.zeros(1, 1, dtype=torch.long)
    wrong = logits(
        model,
        input_ids=rows.input_ids,
        attention_mask=in_columns(zero, zero, columns[0][:, None], columns[0][None])[None, None],
        position_ids=rows.position_ids,
    )
    wrong = wrong[rows.target_row, rows.target_position].log_softmax(-1)
    wrong = wrong.gather(1, rows.target_id[:, None])[:, 0]
    difference = (wrong - logprobs(model, rows, "causal")).abs()
    assert difference[rows.target_owner == 0].max() < 1e-4
    assert difference[rows.target_owner == 1].max() > 0.1


def test_trap_a_window_in_the_config_of_a_model_without_sliding_layers_is_not_used():
    window = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}
    model = tiny_model("qwen3", **window)
    assert model.config.sliding_window == 3
    assert set(model.config.layer_types) == {"full_attention"}
    rows = pack(PACKED[1:2], capacity=64)
    torch.testing.assert_close(ours(model, rows, "causal"), stock(model, rows), atol=1e-4, rtol=0)
    expected = ours(tiny_model("qwen3"), rows, "prefill_bidir")
    assert torch.equal(ours(model, rows, "prefill_bidir"), expected)


def test_trap_a_flash_kernel_cannot_take_these_masks():
    model = tiny_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="'flash_attention_2' takes no ready mask"):
        attention_mask(model, "causal", pack([Example([5], [[6]])], capacity=4))


# --- one wrong cell of a mask is enough for the audit ---------------------------------------------
# Its row: a prompt at 0..4, its continuations at 5..8 and 9..12, another document from 13 on. The
# tokens that it changes stand at 4 and 7.


def with_one_more_cell(query, key):
    model = tiny_model("llama", num_hidden_layers=1)
    decoder = model.get_decoder()
    forward = decoder.forward

    def opened(**inputs):
        ready = inputs["attention_mask"].clone()
        ready[0, 0, query % ready.shape[2], key % ready.shape[3]] = True
        return forward(**(inputs | {"attention_mask": ready}))

    decoder.forward = opened
    return model


def test_one_token_of_look_ahead_is_a_leak():
    assert not leak_audit(with_one_more_cell(6, 6), "prefill_bidir").leaks
    assert leak_audit(with_one_more_cell(6, 7), "prefill_bidir").leaks


def test_dropout_of_a_model_in_training_is_no_movement():
    model = tiny_model("llama", attention_dropout=0.5).train()
    assert not leak_audit(model, "prefill_bidir").leaks


@pytest.mark.parametrize("query, key", [(10, 7), (20, 7), (20, 4)])
def test_a_look_at_another_branch_or_document_stops_the_job(query, key):
    with pytest.raises(MaskNotObeyed, match="another document or branch"):
        leak_audit(with_one_more_cell(query, key), "prefill_bidir")


def test_a_prompt_that_is_bidirectional_under_causal_stops_the_job():
    with pytest.raises(MaskNotObeyed, match="'causal' a change of the last prompt token moved"):
        leak_audit(with_one_more_cell(0, 4), "causal")


# --- transformers' own ways to a bidirectional prompt, on packed rows -----------------------------

PACKED = [
    Example(ids(6, 1), [ids(3, 2)]),
    Example(ids(9, 3), [ids(4, 4)]),
    Example(ids(5, 5), [ids(2, 6)]),
]


def stock(model, rows, attention_mask=None, **overlay):
    """Logits [tokens, vocabulary] of a row under the mask that transformers makes by itself."""
    ready = create_causal_mask(
        config=model.config,
        inputs_embeds=model.get_input_embeddings()(rows.input_ids),
        attention_mask=attention_mask,
        past_key_values=None,
        position_ids=rows.position_ids,
        **overlay,
    )
    inputs = {"input_ids": rows.input_ids, "position_ids": rows.position_ids}
    return logits(model, attention_mask=ready, **inputs)[0]


def ours(model, rows, mask):
    ready = attention_mask(model, mask, rows)
    inputs = {"input_ids": rows.input_ids, "position_ids": rows.position_ids}
    return logits(model, attention_mask=ready, **inputs)[0]


def prompt_blocks(rows):
    """For `block_sequence_ids`: each prompt a block of its own, all else causal."""
    return torch.where(rows.branch == 0, rows.doc, -1)


def unpacked(model):
    """One example a row, where the stock overlay can be trusted."""
    alone = [pack([example], capacity=64) for example in PACKED]
    return torch.cat([stock(model, r, block_sequence_ids=prompt_blocks(r)) for r in alone])


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_trap_the_block_overlay_needs_unique_ids_and_no_mask_of_ones_on_packed_rows(kind):
    model = tiny_model("llama", attention=kind)
    rows, expected = pack(PACKED, capacity=64), unpacked(model)
    torch.testing.assert_close(ours(model, rows, "prefill_bidir"), expected, atol=1e-4, rtol=0)
    unique, repeated = prompt_blocks(rows), prompt_blocks(rows).clamp(max=0)
    ones = torch.ones_like(rows.input_ids)
    right = stock(model, rows, block_sequence_ids=unique)
    torch.testing.assert_close(right, expected, atol=1e-4, rtol=0)
    for wrong in (
        stock(model, rows, block_sequence_ids=repeated),  # prompts of other examples are seen
        stock(model, rows, ones, block_sequence_ids=unique),  # "nothing is padded": not packed
    ):
        assert (wrong - expected).abs().max() > 1


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_trap_or_mask_function_is_given_positions_instead_of_columns_on_packed_rows(kind):
    model = tiny_model("llama", attention=kind)

    def overlaid(rows):
        function = rule("prefill_bidir", rows.doc, rows.branch, rows.position_ids)
        return stock(model, rows, or_mask_function=function)

    single = pack(PACKED[:1], capacity=64)
    right = ours(model, single, "prefill_bidir")
    torch.testing.assert_close(overlaid(single), right, atol=1e-4, rtol=0)
    rows = pack(PACKED, capacity=64)
    assert (overlaid(rows) - unpacked(model)).abs().max() > 1


def test_trap_stock_packing_takes_a_second_branch_for_another_document():
    model = tiny_model("llama")
    rows = pack([Example(ids(6, 1), [ids(3, 2), ids(3, 3)])], capacity=64)
    alone = ours(model, pack([Example(ids(6, 1), [ids(3, 3)])], capacity=64), "causal")[6:]
    torch.testing.assert_close(ours(model, rows, "causal")[9:], alone, atol=1e-4, rtol=0)
    assert (stock(model, rows)[9:] - alone).abs().max() > 1


def test_trap_config_is_causal_false_leaks_and_mixes_packed_documents():
    plain, open_to_all = tiny_model("llama"), tiny_model("llama")
    open_to_all.config.is_causal = False
    rows = pack(PACKED, capacity=64)
    for mask in MASKS:
        assert torch.equal(ours(open_to_all, rows, mask), ours(plain, rows, mask))
    single = pack(PACKED[:1], capacity=64)
    full = ours(plain, single, "full_bidir")
    torch.testing.assert_close(stock(open_to_all, single), full, atol=1e-4, rtol=0)
    assert (stock(open_to_all, rows)[: len(full)] - full).abs().max() > 1


# --- generation ----------------------------------------------------------------------------------


def generated(lm, **settings):
    settings = {"until": [], "max_gen_toks": 12, "do_sample": False} | settings
    prompts = ["The hawk chose Eve and the fox", "Question: who has the key?"]
    requests = [Instance("generate_until", {}, (prompt, settings), 0) for prompt in prompts]
    return lm.generate_until(requests, disable_tqdm=True)


def test_trap_a_chunked_prefill_is_not_bidirectional_and_ours_is_never_chunked():
    tokenizer = tiny_tokenizer()

    def masked(architecture="llama"):
        model = tiny_model(architecture, vocabulary=len(tokenizer))
        return MaskedLM(model, tokenizer, mask="prefill_bidir", batch_tokens=256)

    patched = tiny_model("llama", vocabulary=len(tokenizer))
    for layer in patched.model.layers:
        layer.self_attn.is_causal = False  # bidirectional in batches of one: nothing is padded
    settings = {"backend": "causal", "batch_size": 1, "logits_cache": False}
    theirs = HFLM(pretrained=patched, tokenizer=tokenizer, **settings)
    assert generated(theirs) == generated(masked())
    assert generated(theirs, prefill_chunk_size=2) != generated(masked())

    for architecture in ("llama", "mistral"):
        lm = masked(architecture)
        expected = generated(lm)
        assert generated(lm, prefill_chunk_size=2) == expected
        lm.model.generation_config.prefill_chunk_size = 2
        assert generated(lm) == expected


# --- training ------------------------------------------------------------------------------------


def loss_and_gradients(model, examples, capacity, mask):
    model.zero_grad()
    total = sum(len(e.continuations[0]) for e in examples)
    rows = pack(examples, capacity)
    loss = cross_entropy(target_logits(model, rows, mask), rows.target_id, reduction="sum") / total
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("tie", [True, False])
def test_a_packed_training_row_equals_its_examples_one_by_one(mask, tie):
    model = tiny_model("ministral3", tie=tie).train()
    examples = [Example(ids(3 + n, n), [ids(5 - n, 30 + n)]) for n in range(4)]
    loss, gradients = loss_and_gradients(model, examples, 64, mask)
    parts = [loss_and_gradients(model, [e], 64, mask) for e in examples]
    shares = [len(e.continuations[0]) / 14 for e in examples]
    torch.testing.assert_close(loss, sum(p[0] * s for p, s in zip(parts, shares, strict=True)))
    for name, gradient in gradients.items():
        expected = sum(p[1][name] * s for p, s in zip(parts, shares, strict=True))
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mask", MASKS)
def test_trap_activation_checkpointing_changes_neither_loss_nor_gradients(mask):
    examples = [Example(ids(3 + n, n), [ids(5 - n, 30 + n)]) for n in range(4)]
    model = tiny_model("ministral3").train()
    plain = loss_and_gradients(model, examples, 24, mask)
    model.activation_checkpointing_enable({"use_reentrant": False})
    checkpointed = loss_and_gradients(model, examples, 24, mask)
    assert torch.equal(plain[0], checkpointed[0])
    for name, gradient in plain[1].items():
        torch.testing.assert_close(gradient, checkpointed[1][name])


# --- architectures that are refused --------------------------------------------------------------


@pytest.mark.parametrize(
    "name, settings, reason",
    [
        ("Mamba", {}, "state-space"),
        ("Mamba2", {}, "state-space"),
        ("Jamba", {}, "state-space"),
        ("Rwkv", {}, "linear attention"),
        ("RecurrentGemma", {}, "linear attention"),
        ("Qwen3Next", {}, "linear attention"),
        ("Lfm2", {}, "convolution"),
        ("Bloom", {}, "ALiBi"),
        ("Mpt", {}, "ALiBi"),
        ("Falcon", {"alibi": True}, "ALiBi"),
        ("Llama4Text", {}, "chunked"),
        ("T5", {}, "encoder-decoder"),
    ],
)
def test_what_no_mask_reaches_is_refused_by_name(name, settings, reason):
    config = getattr(transformers, f"{name}Config")(**settings)
    with pytest.raises(UnsupportedArchitecture, match=f"'{config.model_type}'.*{reason}"):
        refuse_unsupported(config)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"layer_types": ["full_attention", "linear_attention"]}, "type linear_attention take no"),
        ({"attention_chunk_size": 8}, "chunked"),
        ({"alibi": True}, "ALiBi"),
        ({"use_alibi": True}, "ALiBi"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
    ],
)
def test_a_family_without_a_name_here_is_refused_by_what_its_config_says(settings, reason):
    known = transformers.LlamaConfig()
    refuse_unsupported(known)
    for name, value in settings.items():
        setattr(known, name, value)
    with pytest.raises(UnsupportedArchitecture, match=reason):
        refuse_unsupported(known)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoders_with_softmax_attention_are_accepted(architecture):
    refuse_unsupported(tiny_model(architecture, attention="eager").config)
