"""Promises of the masks: the traps of docs/masks.md are real, and not fallen into; refusals."""

import pytest
import torch
import transformers
from tiny import ARCHITECTURES, ids, logprobs, tiny_model
from torch.nn.functional import cross_entropy

from ablation.masks import (
    MASKS,
    UnsupportedArchitecture,
    attention_mask,
    refuse_unsupported,
    rule,
)
from ablation.models import target_logits
from ablation.packing import Example, pack


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


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


def test_trap_padding_gives_no_nan(attention):
    model = tiny_model("ministral3", attention=attention)
    rows = pack([Example(ids(4, 1), [ids(2, 2)])], capacity=8, width=40)
    for mask in MASKS:
        ready = attention_mask(model, mask, rows)
        out = logits(model, input_ids=rows.input_ids, attention_mask=ready)
        assert out.isfinite().all()


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


def test_trap_a_flash_kernel_cannot_take_these_masks():
    model = tiny_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="'flash_attention_2' takes no ready mask"):
        attention_mask(model, "causal", pack([Example([5], [[6]])], capacity=4))


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoders_with_softmax_attention_are_accepted(architecture):
    refuse_unsupported(tiny_model(architecture, attention="eager").config)
