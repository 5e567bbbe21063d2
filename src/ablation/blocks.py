"""Flex-attention block masks from block sums: which blocks of a row's pairs need looking at.

`create_block_mask` asks the rule about every pair of tokens: 268 million at 16k tokens, a tenth of
a second, and minutes when compiled. Smallest and largest doc of each block say nearly the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad
from transformers import PreTrainedModel

BLOCK = 128  # tokens to a side, as torch's kernels have it
# Examples are as short as a block: without gradients blocks of 64 leave out a third of the pairs.
# The kernel has to be told, or it takes 128 queries at a time.
SMALL = 64
SMALL_KERNEL = {"BLOCK_M": SMALL, "BLOCK_N": SMALL, "num_warps": 4, "num_stages": 3}


def takes_small(model: PreTrainedModel, tokens: int) -> bool:
    """Whether a forward of rows of `tokens` can have blocks of `SMALL`.

    That is without gradients, where tiles of the model's heads fit on chip, and where torch does
    not take another kernel, that for few queries.
    """
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fits = width <= 128 and model.dtype.itemsize == 2 and tokens >= BLOCK
    return model.device.type == "cuda" and fits and not torch.is_grad_enabled()


def block_mask(
    function: Callable, free: Tensor, doc: Tensor, branch: Tensor, sliding: bool, block: int = BLOCK
) -> BlockMask:
    """The rule `function` of `ablation.masks` over rows, without a host synchronization.

    free, doc, branch: [rows, tokens], see `masks.sees_ahead` and `packing.Rows`.
    sliding: the rule has a window too; then every block that may matter is looked at in part.
    block: tokens to a side of a block.
    """
    length = doc.shape[1]
    part, full = visible_blocks(free, doc, branch, block)
    if sliding:
        part, full = part | full, torch.zeros_like(full)
    return BlockMask.from_kv_blocks(
        *_ordered(part),
        *_ordered(full),
        BLOCK_SIZE=block,
        mask_mod=function,
        seq_lengths=(length, length),
    )


def visible_blocks(
    free: Tensor, doc: Tensor, branch: Tensor, block: int = BLOCK
) -> tuple[Tensor, Tensor]:
    """Two bool tensors [rows, query blocks, key blocks]: seen in part, and seen in every pair.

    A block in neither holds no visible pair. One seen in part may hold none: ranges of docs, not
    docs, are compared.
    """
    padding = -doc.shape[1] % block
    doc = pad(doc, (0, padding), value=-1).unflatten(1, (-1, block))
    branch = pad(branch, (0, padding)).unflatten(1, (-1, block))
    free = pad(free, (0, padding)).unflatten(1, (-1, block))
    real = doc >= 0
    index = torch.arange(doc.shape[1], device=doc.device)
    before, same = index[:, None] > index[None, :], index[:, None] == index[None, :]

    def share_a_doc(tokens: Tensor) -> Tensor:
        first = doc.masked_fill(~tokens, torch.iinfo(doc.dtype).max).amin(-1)
        last = doc.masked_fill(~tokens, -1).amax(-1)
        return (first[:, :, None] <= last[:, None, :]) & (first[:, None, :] <= last[:, :, None])

    # the diagonal always: every token sees itself, padding too
    touched = (share_a_doc(real) & before) | share_a_doc(real & free) | same

    def both(values: Tensor) -> Tensor:
        return values[:, :, None] & values[:, None, :]

    def equal(values: Tensor) -> Tensor:
        return values[:, :, None] == values[:, None, :]

    low, high = branch.amin(-1), branch.amax(-1)
    one_doc = both(real.all(-1) & (doc.amin(-1) == doc.amax(-1))) & equal(doc.amin(-1))
    one_branch = both(low == high) & equal(low)
    past = before & ((high == 0)[:, None, :] | one_branch)
    full = one_doc & (past | both(free.all(-1)))
    return touched & ~full, full


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has, and their indices, those first."""
    count = blocks.sum(-1, dtype=torch.int32)
    indices = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True).int()
    return count[:, None], indices[:, None]
