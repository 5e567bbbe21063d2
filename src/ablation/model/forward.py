"""A model's last hidden states, and its logits where targets are predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.model.masks import forward_inputs
from ablation.model.packing import Example, Rows, pack
from ablation.vocabulary.masks import CAUSAL

# Hidden states of rows [rows, tokens, width], and the output head that gives their logits.
States = tuple[Tensor, Callable[[Tensor], Tensor]]


@contextmanager
def uncompiled(model: PreTrainedModel) -> Iterator[None]:
    """Run forwards without compiled code, for rows of a shape that no other row has."""
    compiled = model.device.type == "cuda" or any(m._compiled_call_impl for m in model.modules())
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield


@contextmanager
def plain_layers(model: PreTrainedModel) -> Iterator[None]:
    """Run the layers as Python calls them: hooks are called, and equal inputs give equal bits.

    A layer that was compiled skips hooks that came later, and its fused kernels round otherwise
    than its `forward`. Kernels of attention stay compiled: without them, long rows need a matrix of
    all pairs of tokens.
    """
    compiled = {m: call for m in model.modules() if (call := m._compiled_call_impl) is not None}
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


def target_logits(model: PreTrainedModel, rows: Rows, mask: str) -> Tensor:
    """Logits [targets, vocabulary] at the targets of `rows`, in the model's dtype; differentiable.

    The decoder runs once under `mask`. The output head, which can cost more than all layers of a
    small model, is applied only to positions that predict a target.
    """
    states, head = last_states(model, rows, mask)
    return head(states[rows.target_row, rows.target_position])


def last_states(model: PreTrainedModel, rows: Rows, mask: str) -> States:
    """The decoder's last hidden states [rows, tokens, width], and the head that gives their logits.

    If a model does more than apply its head (soft-capping, a logit scale), the returned states are
    the logits of the whole forward, and the returned head is the identity.
    """
    inputs = forward_inputs(model, mask, rows)
    if _has_plain_head(model):
        return model.get_decoder()(**inputs).last_hidden_state, model.get_output_embeddings()
    return model(**inputs).logits, lambda logits: logits


_plain_heads: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@torch.no_grad()
def _has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the model's logits are its output embeddings applied to the last hidden states.

    The head is applied again to the states of one small forward. This is the same product of the
    same shapes, so any difference means that the model does more; so do states of another width
    than the head takes. The result is cached.
    """
    if model not in _plain_heads:
        decoder, head = model.get_decoder(), model.get_output_embeddings()
        # Some classes call a part of their head the decoder.
        if not isinstance(decoder, PreTrainedModel) or decoder is model or head is None:
            _plain_heads[model] = False
            return False
        rows = pack([Example([3, 4, 5], [[6, 7]])], capacity=5).to(model.device)
        states: list[Tensor] = []
        hook = decoder.register_forward_hook(lambda module, inputs, out: states.append(out[0]))
        was_training = model.training
        model.eval()
        try:
            with uncompiled(model):
                logits = model(**forward_inputs(model, CAUSAL, rows)).logits
            fits = len(states) == 1 and states[0].shape[-1] == head.weight.shape[-1]
            _plain_heads[model] = fits and torch.equal(head(states[0]), logits)
        finally:
            hook.remove()
            model.train(was_training)
    return _plain_heads[model]
