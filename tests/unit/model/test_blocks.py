"""Promises of block masks: which rows may have small blocks, and what the kernel then gets."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ablation.model.block_masks import (
    BLOCK,
    SMALL,
    SMALL_KERNEL,
    block_mask,
    takes_small,
    within,
)
from ablation.model.masks import TakenWindow, attention_mask, rule, sees_ahead, take_window
from ablation.model.packing import Example, pack
from ablation.vocabulary.masks import MASKS
from tests.support.tiny import ids, tiny_model


def on_a_gpu(dtype=torch.bfloat16, device="cuda", **config):
    """What `takes_small` reads of a model, without the GPU."""
    config = SimpleNamespace(**({"head_dim": 128} | config))
    config.get_text_config = lambda: config
    return SimpleNamespace(config=config, dtype=dtype, device=torch.device(device))


WHOLE_HEAD = {"head_dim": None, "hidden_size": 512, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("model", "tokens", "small"),
    [
        (on_a_gpu(), 128, True),
        (on_a_gpu(dtype=torch.float16, head_dim=64), 4096, True),
        (on_a_gpu(**WHOLE_HEAD), 128, True),
        (on_a_gpu(**WHOLE_HEAD | {"num_attention_heads": 2}), 128, False),
        (on_a_gpu(), 127, False),  # torch takes its kernel for few queries
        (on_a_gpu(head_dim=129), 128, False),  # tiles do not fit on chip
        (on_a_gpu(dtype=torch.float32), 128, False),
        (on_a_gpu(device="cpu"), 128, False),
    ],
)
def test_small_blocks_are_for_forwards_of_a_gpu_without_gradients(model, tokens, small):
    with torch.no_grad():
        assert takes_small(model, tokens) == small
    with torch.enable_grad():
        assert not takes_small(model, tokens)


def test_the_kernel_is_told_the_side_of_a_small_block():
    assert SMALL < BLOCK == 128  # as torch's kernels have it
    assert SMALL_KERNEL["BLOCK_M"] == SMALL_KERNEL["BLOCK_N"] == SMALL


@pytest.mark.parametrize("block", [BLOCK, SMALL])
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("mask", MASKS)
def test_a_block_mask_as_torch_reads_it_is_the_rule(mask, window, block):
    """Blocks seen in full skip the rule, so under a window there must be none of them."""
    examples = [Example(ids(n, n), [ids(m, m)]) for n, m in ((300, 60), (5, 2), (90, 140))]
    rows = pack(examples, 400, width=420)
    function = rule(mask, rows.doc, rows.branch, rows.position_ids, window)
    free = sees_ahead(mask, rows.branch)
    near = None if window is None else within(rows.position_ids, window, block)
    made = block_mask(function, free, rows.doc, rows.branch, near, block)
    assert bool(made.full_kv_num_blocks.any()) == (window is None)
    assert made.seq_lengths == (420, 420) and set(made.BLOCK_SIZE) == {block}
    assert torch.equal(as_read(made), allowed_by(function, rows))


def allowed_by(function, rows):
    """[rows, tokens, tokens], bool: the pairs that a rule allows."""
    count, length = rows.doc.shape
    index, zero = torch.arange(length), torch.zeros(1, 1, dtype=torch.long)
    pairs = [function(zero + row, zero, index[:, None], index[None, :]) for row in range(count)]
    return torch.stack(pairs)


def as_read(made):
    """[rows, tokens, tokens], bool: the pairs of a BlockMask that the kernel computes and keeps."""
    block, length = made.BLOCK_SIZE[0], made.seq_lengths[0]
    index, zero = torch.arange(length), torch.zeros(1, 1, dtype=torch.long)
    seen = torch.zeros(len(made.kv_num_blocks), length, length, dtype=torch.bool)
    for row in range(len(seen)):
        allowed = made.mask_mod(zero + row, zero, index[:, None], index[None, :])
        for kind, counts, indices in (
            ("part", made.kv_num_blocks, made.kv_indices),
            ("full", made.full_kv_num_blocks, made.full_kv_indices),
        ):
            for q, count in enumerate(counts[row, 0].tolist()):
                for k in indices[row, 0, q, :count].tolist():
                    cell = (slice(q * block, (q + 1) * block), slice(k * block, (k + 1) * block))
                    assert not seen[row][cell].any()
                    seen[row][cell] = allowed[cell] if kind == "part" else True
    return seen


@settings(max_examples=12, deadline=None)
@example([(300, 40)], None, 30, "prefill", "causal")  # a continuation far from its prompt's start
@example([(300, 40)], 200, 30, "prefill", "prefill_bidir")
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 60)), min_size=1, max_size=3),
    st.sampled_from([None, 30, 200]),
    st.sampled_from([1, 50, 300]),
    st.sampled_from(["prefill", "everywhere"]),
    st.sampled_from(MASKS),
)
def test_the_blocks_of_a_window_hold_every_pair_that_it_leaves(sizes, own, tokens, when, mask):
    """Under a window of the model, one that was taken, and both."""
    examples = [Example(ids(n, n), [ids(m, m), ids(m, m + 1)]) for n, m in sizes]
    rows = pack(examples, 440, width=450)
    taken = TakenWindow(tokens, when)
    model = tiny_model("mistral", attention="flex_attention", sliding_window=own)
    take_window(model, taken)
    function = rule(mask, rows.doc, rows.branch, rows.position_ids, own, taken)
    assert torch.equal(as_read(attention_mask(model, mask, rows)), allowed_by(function, rows))


@pytest.mark.parametrize("mask", MASKS)
def test_the_blocks_of_a_window_grow_with_a_row_and_not_with_its_square(mask):
    model = tiny_model("llama", attention="flex_attention")
    take_window(model, TakenWindow(256, "prefill"))
    numbers = []
    for length in (4096, 8192, 16_384):
        rows = pack([Example([5] * length, [[6] * 3])], length + 2, keep_last=False)
        numbers.append(int(attention_mask(model, mask, rows).kv_num_blocks.sum()))
    # Of each block the block itself and two on each side, for 256 = 2 * 128 positions. The last
    # one has the continuation, which sees everything, and padding, which counts as position 0.
    for number, blocks in zip(numbers, (33, 65, 129), strict=True):
        assert number <= 5 * blocks + 2 * blocks
