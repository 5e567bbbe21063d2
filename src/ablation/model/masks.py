"""The attention masks: which tokens of a row attend to which, in the form that a model takes.

MASK_RULES holds one entry for each mask of `ablation.vocabulary.masks`. `rule` turns an entry into
a function of indices, and `attention_mask` turns that function into a tensor or a BlockMask.

transformers passes a ready 4-D mask (or flex-attention BlockMask) in `attention_mask` through to
the attention kernel unchanged, so no forward is patched. docs/masks.md draws the masks, explains
sliding windows under them, and lists the mistakes that this module avoids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ablation.model.block_masks import (
    BLOCK,
    SMALL,
    SMALL_KERNEL,
    any_in_block,
    block_mask,
    takes_small,
    within,
)
from ablation.model.packing import Rows

ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention")
MOST_BRANCHES = 2**16  # the largest number of branches in an example: paths are 32-bit numbers
NOWHERE = -(2**31)  # a path that no token is on
# Queries of a dense mask that are computed together. A window compares two numbers of 8 bytes for
# each pair of tokens: 16 GiB for all pairs of 32k tokens, whose mask has 1 GiB.
QUERIES = 1024
ReadyMask = Tensor | BlockMask | dict[str, Tensor | BlockMask]


class UnknownMask(ValueError):
    """No mask has this name."""


class MaskRule(NamedTuple):
    """How a mask is computed from the branch of each token (0 in the prompt, 1..n after it).

    Every token is on a path. It attends to itself and to earlier tokens of its own path and of its
    example's prompt.

    branch_path: the number of each token's path within its example [rows, tokens], given the
        branches. 0 is the path of the prompt.
    sees_ahead: the tokens [rows, tokens], bool, that also attend to later tokens, given the
        branches: all tokens of the prompt's path, or none. `block_masks` relies on this.
    """

    branch_path: Callable[[Tensor], Tensor]
    sees_ahead: Callable[[Tensor], Tensor]


def _no_token(branch: Tensor) -> Tensor:
    return torch.zeros_like(branch, dtype=torch.bool)


def _every_token(branch: Tensor) -> Tensor:
    return torch.ones_like(branch, dtype=torch.bool)


def _prompt_tokens(branch: Tensor) -> Tensor:
    return branch == 0


def _own_path(branch: Tensor) -> Tensor:
    return branch


MASK_RULES: dict[str, MaskRule] = {
    "causal": MaskRule(branch_path=_own_path, sees_ahead=_no_token),
    "prefill_bidir": MaskRule(branch_path=_own_path, sees_ahead=_prompt_tokens),
    "full_bidir": MaskRule(branch_path=torch.zeros_like, sees_ahead=_every_token),
}


class TakenWindow(NamedTuple):
    """A window that an intervention puts over every mask of a model.

    tokens: how many positions a token sees back, itself included.
    when: whether the tokens of continuations have the window too, or those of prompts only.
    """

    tokens: int
    when: Literal["prefill", "everywhere"]


_taken: WeakKeyDictionary[PreTrainedModel, TakenWindow] = WeakKeyDictionary()


def take_window(model: PreTrainedModel, window: TakenWindow) -> None:
    """Narrow every mask of `model` from now on."""
    _taken[model] = window


def taken_window(model: PreTrainedModel) -> TakenWindow | None:
    """The window that narrows every mask of `model`, or None."""
    return _taken.get(model)


@contextmanager
def whole_masks(model: PreTrainedModel) -> Iterator[None]:
    """Lift the window of `model` for a comparison with its stock forward."""
    window = _taken.pop(model, None)
    try:
        yield
    finally:
        if window is not None:
            _taken[model] = window


def mask_rule(mask: str) -> MaskRule:
    """The entry of `mask` in MASK_RULES. Raises UnknownMask, which lists the known masks."""
    if mask not in MASK_RULES:
        raise UnknownMask(f"unknown mask {mask!r}: expected one of {', '.join(MASK_RULES)}")
    return MASK_RULES[mask]


def uses_fixed_rows(model: PreTrainedModel) -> bool:
    """Whether the model's attention kernel is compiled for each width of a row.

    This is flex attention, whose cost grows only with the pairs of tokens that a mask allows.
    """
    return model.config.get_text_config()._attn_implementation == "flex_attention"


def rule(
    mask: str,
    doc: Tensor,
    branch: Tensor,
    position_ids: Tensor,
    window: int | None = None,
    taken: TakenWindow | None = None,
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask as a function of indices (batch, head, query, key) that returns bool.

    The function is true where the query attends to the key. `doc`, `branch` and `position_ids` are
    [rows, tokens] as in `packing.Rows`. `window` is a layer's sliding window in tokens, counted in
    position ids in both directions: |q - k| < window. `taken` is a further window, of all layers.
    The function works by broadcasting and under vmap. Every token attends to itself, padding too: a
    query without any key gives NaN on some back ends. Raises UnknownMask.
    """
    # Three numbers describe a token, and one formula serves every mask, so that a kernel compiled
    # for one mask serves all: the token's path, its prompt's path, and the path on which it sees
    # later tokens.
    entry = mask_rule(mask)
    column = torch.arange(doc.shape[1], device=doc.device, dtype=doc.dtype)
    prompt = torch.where(doc < 0, -1 - column, doc * MOST_BRANCHES)
    path = prompt + entry.branch_path(branch)
    ahead = torch.where(entry.sees_ahead(branch) & (doc >= 0), prompt, NOWHERE)

    def attends(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        path_k = path[b, k]
        visible = (path_k == path[b, q]) | (path_k == prompt[b, q])
        visible = visible & ((k <= q) | (path_k == ahead[b, q]))
        if window is not None:
            visible = visible & ((position_ids[b, q] - position_ids[b, k]).abs() < window)
        if taken is not None:
            near = (position_ids[b, q] - position_ids[b, k]).abs() < taken.tokens
            visible = visible & (near | (branch[b, q] > 0) if taken.when == "prefill" else near)
        return visible

    return attends


def sees_ahead(mask: str, branch: Tensor) -> Tensor:
    """[rows, tokens] bool: the tokens of an example that attend to each other in both directions.

    Raises UnknownMask.
    """
    return mask_rule(mask).sees_ahead(branch)


def forward_inputs(model: PreTrainedModel, mask: str, rows: Rows) -> dict[str, Any]:
    """Keyword arguments of a forward of `rows` under `mask`, for the model or its decoder.

    Raises the errors of `attention_mask`.
    """
    inputs = {
        "input_ids": rows.input_ids,
        "attention_mask": attention_mask(model, mask, rows),
        "position_ids": rows.position_ids,
        "use_cache": False,
    }
    small = uses_fixed_rows(model) and takes_small(model, rows.doc.shape[1])
    return inputs | ({"kernel_options": SMALL_KERNEL} if small else {})


def attention_mask(model: PreTrainedModel, mask: str, rows: Rows) -> ReadyMask:
    """`mask` over `rows`, in the form that the model's attention implementation takes.

    sdpa: bool [rows, 1, tokens, tokens]. eager: the same as float, 0 or the dtype's minimum; eager
    attention adds the mask, so a boolean mask would hide nothing. flex_attention: a BlockMask.
    Models that mix full and sliding layers get a dict by layer type. A window that was taken
    (`take_window`) narrows every one of them. Raises UnknownMask, and
    ValueError for an implementation that cannot take a mask (flash attention).
    """
    config = model.config.get_text_config()
    implementation = config._attn_implementation
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation {implementation!r} takes no ready mask: load the model with "
            f"one of {', '.join(ATTENTION_IMPLEMENTATIONS)}"
        )
    count, length = rows.input_ids.shape
    taken = taken_window(model)

    def ready(window: int | None) -> Tensor | BlockMask:
        if implementation == "flex_attention":
            # The kernel reads these tensors for every pair of a partly visible block.
            doc, branch = rows.doc.int(), rows.branch.int()
            function = rule(mask, doc, branch, rows.position_ids, window, taken)
            free, path = sees_ahead(mask, branch), mask_rule(mask).branch_path(branch)
            block = SMALL if takes_small(model, length) else BLOCK
            near = _near_blocks(rows, window, taken, block)
            return block_mask(function, free, doc, path, near, block)
        function = rule(mask, rows.doc, rows.branch, rows.position_ids, window, taken)
        parts = [
            ALL_MASK_ATTENTION_FUNCTIONS[implementation](
                batch_size=count,
                q_length=min(QUERIES, length - start),
                q_offset=start,
                kv_length=length,
                mask_function=function,
                attention_mask=None,
                allow_is_causal_skip=False,
                dtype=model.dtype,
                device=rows.doc.device,
                config=config,
            )
            for start in range(0, length, QUERIES)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    window = getattr(config, "sliding_window", None)
    layer_types = set(getattr(config, "layer_types", None) or ())
    if not layer_types:  # one mask for all layers; it slides if the model has a window at all
        return ready(window)
    if layer_types == {"full_attention"}:
        return ready(None)
    return {t: ready(window if t == "sliding_attention" else None) for t in layer_types}


def _near_blocks(
    rows: Rows, window: int | None, taken: TakenWindow | None, block: int
) -> Tensor | None:
    """[rows, query blocks, key blocks], bool: what both windows leave; None without a window."""
    near = None if window is None else within(rows.position_ids, window, block)
    if taken is None:
        return near
    left = within(rows.position_ids, taken.tokens, block)
    if taken.when == "prefill":  # tokens of continuations see everything
        left = left | any_in_block(rows.branch > 0, block)[:, :, None]
    return left if near is None else near & left
