"""The kind `positions`: positions are removed, so that only the causal mask orders the tokens.

Sources: Gelberg et al. 2025, "Extending the Context of Pretrained LLMs by Dropping Their Positional
Embeddings" (DroPE, arXiv:2512.12167), and Kazemnejad et al. 2023 (NoPE, arXiv:2305.19466). Every
token is computed at position 0: rotary embeddings rotate nothing there, and learned positions are
one vector for all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ablation.interventions.anatomy import NoSuchPart, layers_of, probe
from ablation.interventions.protocol import Intervention
from ablation.model.masks import forward_inputs

# Names of embeddings of learned positions.
LEARNED = ("wpe", "embed_positions", "position_embeddings", "position_embedding")
_removed: WeakSet[nn.Module] = WeakSet()  # modules that already compute at position 0


class RemovedPositions(Intervention):
    """Hands position 0 to everything in the decoder that computes with positions.

    The model itself still gets the positions, from which transformers tells packed texts apart.
    """

    def take_away(self, model: PreTrainedModel) -> dict[str, Any]:
        if self._moved_by_other_positions(model) == 0:
            raise NoSuchPart(
                f"{type(model).__name__}: it does not depend on the positions that it is given, so "
                "none can be removed"
            )
        self.restore(model)
        if moved := self._moved_by_other_positions(model):
            raise NoSuchPart(
                f"{type(model).__name__}: it computes with positions outside of its layers and of "
                "its embeddings of positions, so they cannot be removed: with both at position 0, "
                f"other positions moved its logits by {moved:.3g}"
            )
        return {}

    def restore(self, model: PreTrainedModel) -> None:
        for module in (*_readers(model), *layers_of(model)):
            if module not in _removed:
                module.register_forward_pre_hook(_at_zero, with_kwargs=True)
                _removed.add(module)

    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """Other positions give the same logits, bit for bit."""
        if moved := self._moved_by_other_positions(model):
            raise self.not_in_force(model, f"other positions moved its logits by {moved:.3g}")
        return {"moved_by_other_positions": 0.0}

    @torch.no_grad()
    def _moved_by_other_positions(self, model: PreTrainedModel) -> float:
        rows = probe(model, prompt=6)
        inputs = forward_inputs(model, self.mask, rows)
        was_training = model.training
        model.eval()
        try:
            logits = model(**inputs).logits
            others = model(**inputs | {"position_ids": rows.position_ids * 3 + 1}).logits
        finally:
            model.train(was_training)
        return float((logits - others).abs().max())


def _readers(model: PreTrainedModel) -> Iterator[nn.Module]:
    for name, module in model.named_modules():
        rotary = "RotaryEmbedding" in type(module).__name__
        if rotary or name.rpartition(".")[2] in LEARNED:
            yield module


def _at_zero(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments of a module with position 0 in place of each position."""
    kwargs = {k: _zeros(v) if k == "position_ids" else v for k, v in kwargs.items()}
    return tuple(_zeros(a) if _are_positions(a) else a for a in args), kwargs


def _are_positions(value: Any) -> bool:
    whole = torch.is_tensor(value) and not (value.is_floating_point() or value.is_complex())
    return whole and value.dtype != torch.bool


def _zeros(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, Tensor) else value
