"""Promises of the masks: who sees whom, on every architecture and back end, however rows are laid.

Identities and traps are those of docs/masks.md, by name.
"""

import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import transformers
from tiny import ARCHITECTURES, tiny_model
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from ablation.masks import (
    MASKS,
    MaskNotObeyed,
    UnsupportedArchitecture,
    attention_mask,
    leak_audit,
    refuse_unsupported,
    rule,
)
from ablation.models import target_logits
from ablation.packing import Example, pack

MAIN = ["ministral3", "llama", "qwen3"]
SLIDING = ["mistral", "qwen3_sliding"]
EXACT = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(params=["eager", "sdpa", "flex_attention"])
def attention(request):
    """Each back end. Flex runs uncompiled here: the same masks, without a minute of compiling."""
    flex = request.param == "flex_attention"
    with torch.compiler.set_stance("force_eager") if flex else nullcontext():
        yield request.param


def ids(count, seed):
    return torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def items():
    """Prompts of several lengths with two to four continuations, some of one token only."""
    return [
        Example(ids(9, 1), [ids(4, 2), ids(1, 3), ids(6, 4)]),
        Example(ids(3, 5), [ids(1, 6), ids(1, 7), ids(1, 8), ids(1, 9)]),
        Example(ids(12, 10), [ids(5, 11), ids(2, 12)]),
        Example(ids(1, 13), [ids(3, 14), ids(3, 15)]),
    ]


def logprobs(model, rows, mask):
    """[(owner, log-probability of its target)] in the order of the continuations."""
    with torch.no_grad():
        picked = target_logits(model, rows, mask).log_softmax(-1)
    return picked.gather(1, rows.target_id[:, None])[:, 0]


def alone(model, example, number, mask, keep_last=True):
    """Log-probabilities of one continuation scored in a row of its own."""
    single = Example(example.prompt, [example.continuations[number]])
    return logprobs(model, pack([single], capacity=64, keep_last=keep_last), mask)


def every_alone(model, examples, mask):
    each = [alone(model, e, n, mask) for e in examples for n in range(len(e.continuations))]
    return torch.cat(each)


# --- the rule itself ---------------------------------------------------------------------------


def seen(mask, example, window=None):
    """'x' where the row's query looks at the column's key."""
    rows = pack([example], capacity=32)
    index = torch.arange(rows.input_ids.shape[1])
    function = rule(mask, rows.doc, rows.branch, rows.position_ids, window)
    zero = torch.zeros(1, 1, dtype=torch.long)
    matrix = function(zero, zero, index[:, None], index[None, :])
    return ["".join("x" if cell else "." for cell in row) for row in matrix.tolist()]


def test_the_three_masks_are_those_drawn_in_the_docs():
    shared = Example([5, 6, 7], [[8, 9], [8, 9]])
    assert seen("causal", shared) == [
        "x......",
        "xx.....",
        "xxx....",
        "xxxx...",
        "xxxxx..",
        "xxx..x.",
        "xxx..xx",
    ]
    assert seen("prefill_bidir", shared) == [
        "xxx....",
        "xxx....",
        "xxx....",
        "xxxx...",
        "xxxxx..",
        "xxx..x.",
        "xxx..xx",
    ]
    assert seen("full_bidir", Example([5, 6, 7], [[8, 9]])) == ["xxxxx"] * 5


def test_a_window_reaches_as_far_to_both_sides_and_counts_positions_not_columns():
    assert seen("prefill_bidir", Example([5, 6, 7, 8], [[9, 9], [9, 9]]), window=3) == [
        "xxx.....",
        "xxxx....",
        "xxxx....",
        ".xxx....",
        "..xxx...",
        "...xxx..",
        "..xx..x.",  # the second branch stands two columns later, at the same positions
        "...x..xx",
    ]


def test_padding_sees_itself_only_and_nobody_sees_it():
    rows = pack([Example([5, 6], [[7]])], capacity=8, width=5)
    for mask in MASKS:
        matrix = attention_mask(tiny_model("llama"), mask, rows)[0, 0]
        assert matrix[3:].tolist() == [[False] * 3 + [True, False], [False] * 4 + [True]]
        assert not matrix[:3, 3:].any()


def test_an_unknown_mask_is_refused_with_the_known_ones():
    rows = pack([Example([5, 6], [[7]])], capacity=8)
    with pytest.raises(ValueError, match="'prefix'.*causal, prefill_bidir, full_bidir"):
        attention_mask(tiny_model("llama"), "prefix", rows)


# --- identity 1: one forward is what inference does ---------------------------------------------


def decoded_logprobs(architecture, tie, prompt, continuation):
    """Prefill a cache under a hand-made bidirectional mask, then decode token by token, stock."""
    model = tiny_model(architecture, attention="eager", tie=tie)
    config, n = model.config, len(prompt)
    distance = (torch.arange(n)[:, None] - torch.arange(n)[None, :]).abs()

    def hand_made(window):
        hidden = torch.zeros(n, n) if window is None else (distance >= window).float()
        return (hidden * torch.finfo(torch.float32).min)[None, None]

    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types and "sliding_attention" in layer_types:
        mask = {"full_attention": hand_made(None), "sliding_attention": hand_made(window)}
    else:
        mask = hand_made(None if layer_types else window)
    cache, values = DynamicCache(), []
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor([prompt]),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
        for token in continuation:
            values.append(output.logits[0, -1].log_softmax(-1)[token])
            output = model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
    return torch.stack(values)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("architecture", MAIN + SLIDING)
def test_one_forward_equals_bidirectional_prefill_then_decoding(architecture, tie, attention):
    model = tiny_model(architecture, attention=attention, tie=tie)
    for example in items()[::2]:
        for number, continuation in enumerate(example.continuations):
            expected = decoded_logprobs(architecture, tie, example.prompt, continuation)
            found = alone(model, example, number, "prefill_bidir")
            torch.testing.assert_close(found, expected, **EXACT)


def test_that_comparison_can_fail():
    expected = decoded_logprobs("llama", True, ids(9, 1), ids(4, 2))
    for wrong in ("causal", "full_bidir"):
        found = alone(tiny_model("llama"), items()[0], 0, wrong)
        assert (found - expected).abs().max() > 0.1


# --- identity 2: layout does not matter ---------------------------------------------------------


@pytest.mark.parametrize("architecture", MAIN + SLIDING)
def test_packed_rows_equal_one_example_a_row(architecture, attention):
    model = tiny_model(architecture, attention=attention)
    for mask in MASKS:
        singles = [Example(e.prompt, [c]) for e in items() for c in e.continuations]
        packed = pack(singles, capacity=64)
        assert len(packed.input_ids) < len(singles)
        found = logprobs(model, packed, mask)[packed.target_owner.argsort(stable=True)]
        torch.testing.assert_close(found, every_alone(model, items(), mask), **EXACT)


@pytest.mark.parametrize("architecture", MAIN + SLIDING)
def test_left_padding_equals_right_padding_equals_none(architecture, attention):
    model = tiny_model(architecture, attention=attention)
    example = items()[2]
    single = [Example(example.prompt, example.continuations[:1])]
    right = pack(single, capacity=64, width=25)
    padding = 25 - len(example.prompt) - len(example.continuations[0])
    left = replace(
        right,
        **{
            name: getattr(right, name).roll(padding, 1)
            for name in ("input_ids", "doc", "branch", "position_ids")
        },
        target_position=right.target_position + padding,
    )
    for mask in MASKS:
        expected = alone(model, example, 0, mask)
        torch.testing.assert_close(logprobs(model, right, mask), expected, **EXACT)
        torch.testing.assert_close(logprobs(model, left, mask), expected, **EXACT)


@pytest.mark.parametrize("architecture", MAIN)
def test_a_batch_of_eight_equals_eight_batches_of_one(architecture, attention):
    model = tiny_model(architecture, attention=attention)
    examples = [Example(ids(8 + n % 3, n), [ids(1 + n % 4, 50 + n)]) for n in range(8)]
    together = pack(examples, capacity=15, width=15)
    assert len(together.input_ids) == 8
    for mask in MASKS:
        found = logprobs(model, together, mask)[together.target_owner.argsort(stable=True)]
        torch.testing.assert_close(found, every_alone(model, examples, mask), **EXACT)


# --- identity 3: a shared prompt -----------------------------------------------------------------


@pytest.mark.parametrize("architecture", MAIN + SLIDING)
@pytest.mark.parametrize("mask", ["causal", "prefill_bidir"])
def test_choices_that_share_a_prompt_equal_each_choice_alone(architecture, mask, attention):
    model = tiny_model(architecture, attention=attention)
    rows = pack(items(), capacity=60, keep_last=False)
    torch.testing.assert_close(
        logprobs(model, rows, mask)[rows.target_owner.argsort(stable=True)],
        every_alone(model, items(), mask),
        **EXACT,
    )


def test_one_token_choices_read_one_prompt_state_and_have_empty_branches():
    rows = pack([Example(ids(3, 5), [[8], [9]])], capacity=8, keep_last=False)
    assert rows.branch.tolist() == [[0, 0, 0]]
    assert rows.target_position.tolist() == [2, 2]


def test_a_mere_common_prefix_may_be_shared_under_causal_only():
    """WinoGrande's shape: the contexts are equal up to the option, the continuation is the same."""
    model = tiny_model("ministral3")
    stem, options, rest = ids(8, 20), [ids(2, 21), ids(2, 22)], ids(5, 23)
    whole = pack([Example(stem + option, [rest]) for option in options], capacity=64)
    prefix = pack([Example(stem, [option + rest for option in options])], capacity=64)

    def of_rest(rows, mask):
        values = logprobs(model, rows, mask)
        return torch.stack([values[rows.target_owner == n][-len(rest) :].sum() for n in (0, 1)])

    causal = of_rest(whole, "causal") - of_rest(prefix, "causal")
    bidirectional = of_rest(whole, "prefill_bidir") - of_rest(prefix, "prefill_bidir")
    assert causal.abs().max() < 1e-4
    assert bidirectional.abs().max() > 0.1


# --- identity 5: the leak audit ------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*MAIN, *SLIDING, "gemma2"])
def test_only_full_bidir_leaks(architecture, attention):
    if architecture == "gemma2" and attention == "sdpa":
        pytest.skip("transformers has no sdpa for gemma2: soft-capped attention scores")
    model = tiny_model(architecture, attention=attention).train()
    for mask in MASKS:
        audit = leak_audit(model, mask)
        assert audit.leaks == (mask == "full_bidir") == audit.as_dict()["leaks"]
        assert (audit.first_prompt > audit.tolerance) == (mask != "causal")
        assert audit.elsewhere <= audit.tolerance
    assert model.training


def test_a_padded_audit_says_the_same():
    model = tiny_model("llama")
    assert leak_audit(model, "full_bidir", width=64).leaks
    assert not leak_audit(model, "prefill_bidir", width=64).leaks


def ignoring_masks(model, replacement):
    """`model` with `replacement` as attention mask, whatever it is given."""
    forward = model.forward
    model.forward = lambda **inputs: forward(**(inputs | {"attention_mask": replacement(inputs)}))
    return model


def test_a_silently_causal_model_is_named():
    model = ignoring_masks(tiny_model("llama"), lambda inputs: None)
    with pytest.raises(MaskNotObeyed, match="llama.*'prefill_bidir'.*did not move"):
        leak_audit(model, "prefill_bidir")


def test_a_model_that_mixes_documents_is_named():
    everything = torch.ones(1, 1, 22, 22, dtype=torch.bool)
    model = ignoring_masks(tiny_model("llama"), lambda inputs: everything)
    with pytest.raises(MaskNotObeyed, match="another document or branch"):
        leak_audit(model, "causal")


# --- traps ---------------------------------------------------------------------------------------


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


@pytest.mark.skipif(shutil.which("g++") is None, reason="flex attention compiles with g++")
def test_compiled_flex_attention_gives_the_same():
    rows = pack(items(), capacity=60, keep_last=False)
    flex = logprobs(tiny_model("llama", attention="flex_attention"), rows, "prefill_bidir")
    sdpa = logprobs(tiny_model("llama"), rows, "prefill_bidir")
    torch.testing.assert_close(flex, sdpa, **EXACT)


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
