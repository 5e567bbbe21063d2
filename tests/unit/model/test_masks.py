"""Promises of the masks: who sees whom, on every architecture and back end, however rows are laid.

The identities are those of docs/masks.md, by number.
"""

import shutil
from dataclasses import replace

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from ablation.model.block_masks import BLOCK, SMALL, SMALL_KERNEL
from ablation.model.leak_audit import MaskNotObeyed, leak_audit
from ablation.model.masks import attention_mask, forward_inputs, rule, uses_fixed_rows
from ablation.model.packing import Example, pack
from ablation.vocabulary.masks import MASKS
from tests.support.tiny import ids, logprobs, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

MAIN = ["ministral3", "llama", "qwen3"]
SLIDING = ["mistral", "qwen3_sliding"]
EXACT = {"atol": 1e-4, "rtol": 0}


def items():
    """Prompts of several lengths with two to four continuations, some of one token only."""
    return [
        Example(ids(9, 1), [ids(4, 2), ids(1, 3), ids(6, 4)]),
        Example(ids(3, 5), [ids(1, 6), ids(1, 7), ids(1, 8), ids(1, 9)]),
        Example(ids(12, 10), [ids(5, 11), ids(2, 12)]),
        Example(ids(1, 13), [ids(3, 14), ids(3, 15)]),
    ]


def alone(model, example, number, mask, keep_last=True):
    """Log-probabilities of one continuation scored in a row of its own."""
    single = Example(example.prompt, [example.continuations[number]])
    return logprobs(model, pack([single], capacity=64, keep_last=keep_last), mask)


def every_alone(model, examples, mask):
    each = [alone(model, e, n, mask) for e in examples for n in range(len(e.continuations))]
    return torch.cat(each)


# --- the rule itself ---------------------------------------------------------------------------


def seen(mask, example):
    """'x' where the row's query looks at the column's key."""
    rows = pack([example], capacity=32)
    index = torch.arange(rows.input_ids.shape[1])
    function = rule(mask, rows.doc, rows.branch, rows.position_ids)
    zero = torch.zeros(1, 1, dtype=torch.long)
    matrix = function(zero, zero, index[:, None], index[None, :])
    return ["".join("x" if cell else "." for cell in row) for row in matrix.tolist()]


shapes = st.lists(
    st.tuples(st.integers(0, 4), st.lists(st.integers(0, 3), max_size=3)), min_size=1, max_size=4
)


@settings(max_examples=60)
@hypothesis.example([(2, [1] * 40), (1, [1] * 3)], None, 0)  # many branches are no other document's
@given(shapes, st.sampled_from([None, 1, 3]), st.integers(0, 3))
def test_the_rule_is_same_document_same_branch_or_prompt_and_order(drawn, window, padding):
    examples = [Example([5] * n, [[6] * m for m in sizes]) for n, sizes in drawn]
    width = max(sum(n + sum(sizes) for n, sizes in drawn), 1) + padding
    rows = pack(examples, width, width=width)
    index, zero = torch.arange(width), torch.zeros(1, 1, dtype=torch.long)
    q, k = index[:, None], index[None, :]
    doc, branch, position = (x[0] for x in (rows.doc, rows.branch, rows.position_ids))
    one_doc = (doc[q] == doc[k]) & (doc[q] >= 0)
    in_prompt, near = (branch[q] == 0) & (branch[k] == 0), torch.ones(width, width).bool()
    if window is not None:
        near = (position[q] - position[k]).abs() < window
    past = (k <= q) & ((branch[q] == branch[k]) | (branch[k] == 0))
    for mask, allowed in zip(MASKS, (past, past | in_prompt, torch.tensor(True)), strict=True):
        found = rule(mask, rows.doc, rows.branch, rows.position_ids, window)(zero, zero, q, k)
        assert torch.equal(found, one_doc & allowed & near | (q == k)), mask


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


@pytest.mark.parametrize("width", [None, 256])
def test_a_padded_audit_says_the_same(width):
    model = tiny_model("llama", attention="flex_attention")
    with torch.compiler.set_stance("force_eager"):  # compiling takes seconds
        assert leak_audit(model, "full_bidir", width).leaks
        audit = leak_audit(model, "prefill_bidir", width)
    assert not audit.leaks and audit.tokens == 22


def test_tolerance_grows_with_the_logits_and_their_rounding():
    """Else a model of large logits would be said to leak by its rounding."""
    model = tiny_model("llama", tie=False)
    small = leak_audit(model, "prefill_bidir")
    model.lm_head.weight.data *= 1024
    large = leak_audit(model, "prefill_bidir")
    assert large.tolerance == pytest.approx(1024 * small.tolerance)
    assert not large.leaks and large.tokens == small.tokens == 22
    coarse = leak_audit(tiny_model("llama", tie=False).bfloat16(), "prefill_bidir")
    assert coarse.tolerance == pytest.approx(small.tolerance * 2**-7 / 1e-5, rel=0.05)


def ignoring_masks(model, replacement):
    """`model` with `replacement` as attention mask, whatever it is given."""
    decoder = model.get_decoder()
    forward = decoder.forward
    decoder.forward = lambda **inputs: forward(**(inputs | {"attention_mask": replacement(inputs)}))
    return model


def test_a_silently_causal_model_is_named():
    model = ignoring_masks(tiny_model("llama"), lambda inputs: None)
    with pytest.raises(MaskNotObeyed, match="llama.*'prefill_bidir'.*did not move"):
        leak_audit(model, "prefill_bidir")


def test_a_model_that_mixes_documents_is_named():
    model = ignoring_masks(
        tiny_model("llama"), lambda inputs: torch.ones_like(inputs["attention_mask"])
    )
    with pytest.raises(MaskNotObeyed, match="another document or branch"):
        leak_audit(model, "causal")


# --- what a forward is given --------------------------------------------------------------------


@pytest.mark.parametrize("small", [True, False])
def test_only_flex_attention_has_rows_of_few_widths_and_a_kernel_told_its_blocks(
    attention, small, monkeypatch
):
    monkeypatch.setattr(
        "ablation.model.masks.takes_small", lambda model, tokens: small and tokens == 256
    )
    model, flex = tiny_model("llama", attention=attention), attention == "flex_attention"
    assert uses_fixed_rows(model) == flex
    inputs = forward_inputs(model, "causal", pack([Example([5, 6], [[7]])], 256, width=256))
    assert inputs.pop("kernel_options", None) == (SMALL_KERNEL if flex and small else None)
    assert set(inputs) == {"input_ids", "attention_mask", "position_ids", "use_cache"}
    assert not inputs["use_cache"]
    if flex:
        assert set(inputs["attention_mask"].BLOCK_SIZE) == {SMALL if small else BLOCK}


# --- compiled -----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("g++") is None, reason="flex attention compiles with g++")
def test_compiled_flex_attention_gives_the_same():
    rows = pack(items(), capacity=60, keep_last=False)
    flex = logprobs(tiny_model("llama", attention="flex_attention"), rows, "prefill_bidir")
    sdpa = logprobs(tiny_model("llama"), rows, "prefill_bidir")
    torch.testing.assert_close(flex, sdpa, **EXACT)
