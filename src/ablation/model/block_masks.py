"""Flex-attention block masks: which blocks of token pairs of a row the kernel has to compute.

torch's `create_block_mask` evaluates the mask for every pair of tokens. At 16k tokens these are 268
million pairs, which take a tenth of a second, or minutes when compiled. This module compares only
the smallest and largest numbers of each block of tokens, which gives nearly the same blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad
from transformers import PreTrainedModel

BLOCK = 128  # tokens on each side of a block, torch's default
# Examples are as short as a block, so blocks of 64 tokens leave out a third of the pairs. They are
# used without gradients. SMALL_KERNEL are the kernel options for them: by default the kernel
# computes 128 queries at a time.
SMALL = 64
SMALL_KERNEL = {"BLOCK_M": SMALL, "BLOCK_N": SMALL, "num_warps": 4, "num_stages": 3}


def takes_small(model: PreTrainedModel, tokens: int) -> bool:
    """Whether a forward of rows of `tokens` tokens can use blocks of `SMALL` tokens.

    It can on a GPU without gradients, if tiles of the model's heads fit on chip, and if rows are
    long enough that torch does not choose its kernel for few queries.
    """
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fits = width <= 128 and model.dtype.itemsize == 2 and tokens >= BLOCK
    return model.device.type == "cuda" and fits and not torch.is_grad_enabled()


def block_mask(
    function: Callable,
    free: Tensor,
    doc: Tensor,
    branch: Tensor,
    near: Tensor | None = None,
    block: int = BLOCK,
) -> BlockMask:
    """The BlockMask of `function` (see `masks.rule`), without a host synchronization.

    free, branch: [rows, tokens], `sees_ahead` and `branch_path` of the mask (`masks.MaskRule`).
    doc: [rows, tokens], see `packing.Rows`.
    near: [rows, query blocks, key blocks], bool, the blocks that a window leaves (`within`); None
        without a window. All blocks are then treated as partly visible.
    block: tokens on each side of a block.
    """
    length = doc.shape[1]
    part, full = visible_blocks(free, doc, branch, block)
    if near is not None:
        part, full = (part | full) & near, torch.zeros_like(full)
    return BlockMask.from_kv_blocks(
        *_ordered(part),
        *_ordered(full),
        BLOCK_SIZE=block,
        mask_mod=function,
        seq_lengths=(length, length),
    )


def within(position_ids: Tensor, window: int, block: int = BLOCK) -> Tensor:
    """[rows, query blocks, key blocks], bool: blocks with a pair of |q - k| < `window`.

    The pairs are of position ids [rows, tokens]. Some blocks without such a pair are included,
    because ranges of positions are compared. The number of blocks grows with the length of a row,
    and not with its square.
    """
    blocks = pad(position_ids, (0, -position_ids.shape[1] % block)).unflatten(1, (-1, block))
    low, high = blocks.amin(-1), blocks.amax(-1)
    back, ahead = low[:, :, None] - high[:, None, :], low[:, None, :] - high[:, :, None]
    return torch.maximum(back, ahead) < window


def any_in_block(tokens: Tensor, block: int = BLOCK) -> Tensor:
    """[rows, blocks], bool: whether a block has one of `tokens` [rows, tokens], bool."""
    return pad(tokens, (0, -tokens.shape[1] % block)).unflatten(1, (-1, block)).any(-1)


def visible_blocks(
    free: Tensor, doc: Tensor, branch: Tensor, block: int = BLOCK
) -> tuple[Tensor, Tensor]:
    """Two bool tensors [rows, query blocks, key blocks]: partly visible, and visible in every pair.

    A block in neither tensor holds no visible pair. A block that counts as partly visible may hold
    none, because ranges of docs are compared instead of docs.
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

    # The diagonal is always included: every token attends to itself, padding too.
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
    """The number of visible key blocks of each query block, and all key blocks, these first."""
    count = blocks.sum(-1, dtype=torch.int32)
    indices = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True).int()
    return count[:, None], indices[:, None]
