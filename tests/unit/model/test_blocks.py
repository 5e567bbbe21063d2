"""Promises of block masks: which rows may have small blocks, and what the kernel then gets."""

from types import SimpleNamespace

import pytest
import torch

from ablation.model.block_masks import BLOCK, SMALL, SMALL_KERNEL, block_mask, takes_small
from ablation.model.masks import rule, sees_ahead
from ablation.model.packing import Example, pack
from ablation.vocabulary.masks import MASKS
from tests.support.tiny import ids


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
    length, zero = torch.arange(420), torch.zeros(1, 1, dtype=torch.long)
    function = rule(mask, rows.doc, rows.branch, rows.position_ids, window)
    free = sees_ahead(mask, rows.branch)
    made = block_mask(function, free, rows.doc, rows.branch, window is not None, block)
    assert bool(made.full_kv_num_blocks.any()) == (window is None)
    assert made.seq_lengths == (420, 420) and set(made.BLOCK_SIZE) == {block}
    query, key = length[:, None], length[None, :]
    for row in range(len(rows.input_ids)):
        allowed = function(zero + row, zero, query, key)
        seen = torch.zeros_like(allowed)
        for kind, counts, indices in (
            ("part", made.kv_num_blocks, made.kv_indices),
            ("full", made.full_kv_num_blocks, made.full_kv_indices),
        ):
            for q, count in enumerate(counts[row, 0].tolist()):
                for k in indices[row, 0, q, :count].tolist():
                    cell = (slice(q * block, (q + 1) * block), slice(k * block, (k + 1) * block))
                    assert not seen[cell].any()
                    seen[cell] = allowed[cell] if kind == "part" else True
        assert torch.equal(seen, allowed)
