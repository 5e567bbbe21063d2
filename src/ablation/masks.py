"""The three masks: who may look at whom, as a rule on indices, and as what a model wants to have.

transformers hands a ready 4-D mask (or flex-attention BlockMask) in `attention_mask` through to the
attention kernel unchanged, so no forward is patched. docs/masks.md draws the masks, tells what a
sliding window means under them, and lists the traps that this module avoids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ablation.blocks import BLOCK, SMALL, SMALL_KERNEL, block_mask, takes_small
from ablation.names import MASKS
from ablation.packing import Example, Rows, pack

ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention")

MOST_BRANCHES = 2**16  # of an example; paths are 32-bit numbers
NOWHERE = -(2**31)
AUDITED = 512  # tokens of the row in which a GPU's model is audited

ReadyMask = Tensor | BlockMask | dict[str, Tensor | BlockMask]


def wants_fixed_rows(model: PreTrainedModel) -> bool:
    """Whether attention is compiled for a width, and a row's cost grows with what is seen only."""
    return model.config.get_text_config()._attn_implementation == "flex_attention"


class UnsupportedArchitecture(ValueError):
    """The model mixes tokens by something that no attention mask reaches."""


class MaskNotObeyed(RuntimeError):
    """The model ran, but its logits show that it did not use the mask it was given."""


def rule(
    mask: str, doc: Tensor, branch: Tensor, position_ids: Tensor, window: int | None = None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask as a function of indices (batch, head, query, key) -> bool: may query look at key?

    `doc`, `branch` and `position_ids` are [rows, tokens] as in `ablation.packing.Rows`. `window`
    is a layer's sliding window in tokens, counted in position ids to both sides: |q - k| < window.
    Works by broadcasting and under vmap. Every token sees itself, padding too: a query that sees
    nothing gives NaN on some back ends. Raises ValueError on an unknown mask.
    """
    # Three numbers a token, and one formula for every mask, so that a kernel compiled for one
    # serves all: the path it is on, its prompt's, and the one it sees ahead on.
    column = torch.arange(doc.shape[1], device=doc.device, dtype=doc.dtype)
    prompt = torch.where(doc < 0, -1 - column, doc * MOST_BRANCHES)
    path = prompt if mask == "full_bidir" else prompt + branch
    ahead = torch.where(sees_ahead(mask, branch) & (doc >= 0), prompt, NOWHERE)

    def may_look(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        path_k = path[b, k]
        visible = (path_k == path[b, q]) | (path_k == prompt[b, q])
        visible = visible & ((k <= q) | (path_k == ahead[b, q]))
        if window is not None:
            visible = visible & ((position_ids[b, q] - position_ids[b, k]).abs() < window)
        return visible

    return may_look


def sees_ahead(mask: str, branch: Tensor) -> Tensor:
    """[rows, tokens] bool: which tokens of an example see each other in both directions.

    None, the prompt's, or all. Raises ValueError on an unknown mask.
    """
    if mask not in MASKS:
        raise ValueError(f"unknown mask {mask!r}: expected one of {', '.join(MASKS)}")
    if mask == "prefill_bidir":
        return branch == 0
    return torch.full_like(branch, mask == "full_bidir", dtype=torch.bool)


def forward_inputs(model: PreTrainedModel, mask: str, rows: Rows) -> dict[str, Any]:
    """Keyword arguments of a forward of `rows` under `mask`, by the model or its decoder.

    Raises as `attention_mask`.
    """
    inputs = {
        "input_ids": rows.input_ids,
        "attention_mask": attention_mask(model, mask, rows),
        "position_ids": rows.position_ids,
        "use_cache": False,
    }
    small = wants_fixed_rows(model) and takes_small(model, rows.doc.shape[1])
    return inputs | ({"kernel_options": SMALL_KERNEL} if small else {})


def attention_mask(model: PreTrainedModel, mask: str, rows: Rows) -> ReadyMask:
    """`mask` over `rows`, in the form that the model's attention implementation takes.

    sdpa: bool [rows, 1, tokens, tokens]; eager: the same as float, 0 or the dtype's minimum
    (eager adds a mask, so that a boolean one would hide nothing); flex_attention: a BlockMask.
    A dict by layer type for models that mix full and sliding layers. Raises ValueError for an
    implementation that cannot take a mask (flash attention).
    """
    config = model.config.get_text_config()
    implementation = config._attn_implementation
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation {implementation!r} takes no ready mask: load the model with "
            f"one of {', '.join(ATTENTION_IMPLEMENTATIONS)}"
        )
    count, length = rows.input_ids.shape

    def ready(window: int | None) -> Tensor | BlockMask:
        if implementation == "flex_attention":
            # the kernel reads these for every pair of a block that is seen in part
            doc, branch = rows.doc.int(), rows.branch.int()
            function = rule(mask, doc, branch, rows.position_ids, window)
            free = sees_ahead(mask, branch)
            block = SMALL if takes_small(model, length) else BLOCK
            return block_mask(function, free, doc, branch, window is not None, block)
        function = rule(mask, rows.doc, rows.branch, rows.position_ids, window)
        return ALL_MASK_ATTENTION_FUNCTIONS[implementation](
            batch_size=count,
            q_length=length,
            kv_length=length,
            mask_function=function,
            attention_mask=None,
            allow_is_causal_skip=False,
            dtype=model.dtype,
            device=rows.doc.device,
            config=config,
        )

    window = getattr(config, "sliding_window", None)
    layer_types = set(getattr(config, "layer_types", None) or ())
    if not layer_types:  # one mask for all layers, sliding if the model has a window at all
        return ready(window)
    if layer_types == {"full_attention"}:
        return ready(None)
    return {t: ready(window if t == "sliding_attention" else None) for t in layer_types}


_STATE_SPACE = "state-space layers carry information forward outside attention"
_LINEAR = "linear attention or recurrent layers have no attention matrix to mask"
_ALIBI = "ALiBi: its causal bias is part of the model, and positions are counted in row indices"
_UNSUPPORTED_MODEL_TYPES = {
    **dict.fromkeys(
        ["bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "granitemoe_swa", "jamba"]
        + ["mamba", "mamba2", "nemotron_h", "zamba", "zamba2"],
        _STATE_SPACE,
    ),
    **dict.fromkeys(
        ["bailing_hybrid", "kimi_linear", "minimax", "olmo_hybrid", "qwen3_5", "qwen3_5_moe"]
        + ["qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "recurrent_gemma", "rwkv", "xlstm"],
        _LINEAR,
    ),
    **dict.fromkeys(["lfm2", "lfm2_moe", "lfm3", "zaya"], "convolution layers mix tokens"),
    **dict.fromkeys(["bloom", "mpt"], _ALIBI),
    **dict.fromkeys(["llama4", "llama4_text"], "chunked attention is counted in row indices"),
}


def refuse_unsupported(config: PreTrainedConfig) -> None:
    """Raise UnsupportedArchitecture, with the model type and the reason, if no mask can be set.

    Knows the families by name and by what their configs say. `leak_audit` catches the rest on the
    model itself.
    """
    text = config.get_text_config()
    layer_types = set(getattr(text, "layer_types", None) or ())
    unknown_layers = layer_types - {"full_attention", "sliding_attention"}
    reason = None
    for model_type in (config.model_type, text.model_type):
        reason = reason or _UNSUPPORTED_MODEL_TYPES.get(model_type)
    if reason is None and getattr(config, "is_encoder_decoder", False):
        reason = "an encoder-decoder has no prompt and response in one row"
    if reason is None and (getattr(text, "alibi", False) or getattr(text, "use_alibi", False)):
        reason = _ALIBI
    if reason is None and getattr(text, "attention_chunk_size", None) is not None:
        reason = _UNSUPPORTED_MODEL_TYPES["llama4"]
    if reason is None and unknown_layers:
        reason = (
            f"layers of type {', '.join(sorted(unknown_layers))} take no attention mask of ours"
        )
    if reason is not None:
        raise UnsupportedArchitecture(
            f"model type {config.model_type!r} cannot be ablated by its attention mask: {reason}. "
            "Use a decoder of full or sliding-window softmax attention (Ministral, Llama, Qwen-3)."
        )


@dataclass(frozen=True)
class LeakAudit:
    """What moved when one token was changed: largest absolute differences of logits.

    `leaks`: a logit that predicts the changed continuation token or an earlier one moved, so the
    mask shows a model its own targets. `earlier` is by how much, `elsewhere` what moved in other
    branches and docs (must not), `first_prompt` what moved at the first prompt token when the last
    was changed (must move unless causal). Below `tolerance` nothing is said to have moved.
    """

    mask: str
    leaks: bool
    earlier: float
    elsewhere: float
    first_prompt: float
    tolerance: float
    tokens: int

    def as_dict(self) -> dict[str, str | bool | float | int]:
        return asdict(self)


@torch.no_grad()
def leak_audit(model: PreTrainedModel, mask: str, width: int | None = None) -> LeakAudit:
    """Change one token and see which logits move: does the mask leak, and does the model obey it?

    Three forwards over one row of some 25 random tokens (padded to `width`; on a GPU to one that
    kernels are compiled for anyway).
    Raises MaskNotObeyed when the prompt is causal under a bidirectional mask or bidirectional
    under `causal`, or when a change is felt in another doc or branch of the row.
    """
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(0)

    def random_ids(count: int) -> list[int]:
        return torch.randint(3, config.vocab_size, (count,), generator=generator).tolist()

    prompt, first, second = (random_ids(count) for count in (5, 4, 4))
    # Under full_bidir a prompt sees its continuation, so two continuations cannot share one.
    shared = mask != "full_bidir"
    examples = [Example(prompt, [first, second])] if shared else [Example(prompt, [first])]
    examples += [Example(random_ids(5), [random_ids(4)])]
    if width is None and model.device.type == "cuda":
        width = AUDITED
    rows = pack(examples, capacity=64, width=width).to(model.device)
    changed_continuation = len(prompt) + len(first) // 2
    changed_prompt = len(prompt) - 1

    was_training = model.training
    model.eval()
    try:
        inputs = forward_inputs(model, mask, rows)

        def logits(ids: Tensor) -> Tensor:
            return model(**(inputs | {"input_ids": ids})).logits[0].float()

        def movement(position: int) -> Tensor:
            """[tokens]: the largest change of a logit when the token at `position` is another."""
            ids = rows.input_ids.clone()
            ids[0, position] = 3 + (ids[0, position] - 2) % (config.vocab_size - 3)
            return (logits(ids) - base).abs().amax(-1)

        base = logits(rows.input_ids)
        by_continuation, by_prompt = movement(changed_continuation), movement(changed_prompt)
    finally:
        model.train(was_training)

    own_path = (rows.doc[0] == 0) & (rows.branch[0] <= 1)
    position = torch.arange(len(own_path), device=own_path.device)
    real = rows.doc[0] >= 0
    tolerance = max(torch.finfo(model.dtype).eps, 1e-5) * float(base.abs().max())
    earlier = float(by_continuation[own_path & (position < changed_continuation)].max())
    elsewhere = float(
        torch.cat([by_continuation[real & ~own_path], by_prompt[rows.doc[0] == 1]]).max()
    )
    first_prompt = float(by_prompt[0])
    audit = LeakAudit(
        mask=mask,
        leaks=earlier > tolerance,
        earlier=earlier,
        elsewhere=elsewhere,
        first_prompt=first_prompt,
        tolerance=tolerance,
        tokens=int(real.sum()),
    )
    if elsewhere > tolerance:
        raise MaskNotObeyed(
            f"{config.model_type}: under mask {mask!r} a changed token moved a logit of another "
            f"document or branch of its row by {elsewhere:.3g} (tolerance {tolerance:.3g}). "
            "The model mixes tokens outside masked attention: it cannot be scored or trained here."
        )
    if (first_prompt > tolerance) != (mask != "causal"):
        moved = "moved" if first_prompt > tolerance else "did not move"
        raise MaskNotObeyed(
            f"{config.model_type} ({config._attn_implementation} attention): under mask {mask!r} "
            f"a change of the last prompt token {moved} the logits of the first "
            f"(|difference| {first_prompt:.3g}, tolerance {tolerance:.3g}), so the model does not "
            "use the mask it is given. Try another attention implementation."
        )
    return audit
