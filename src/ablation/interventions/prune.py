"""The kind `prune`: the smallest weights of each matrix are 0, and stay it.

Sources: Han et al. 2015, "Learning both Weights and Connections" (arXiv:1506.02626), magnitude
pruning with retraining; structure 2:4 by Mishra et al. 2021 (arXiv:2104.08378). Sun et al. 2023,
Wanda (arXiv:2306.11695), compare with it.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.config.interventions import Prune
from ablation.interventions.anatomy import NoSuchPart, matrices
from ablation.interventions.protocol import Intervention

_kept: WeakKeyDictionary[PreTrainedModel, list[tuple[Tensor, Tensor]]] = WeakKeyDictionary()


class PrunedWeights(Intervention):
    """Zeroes weights of every matrix of the layers; embeddings, head, norms and biases stay."""

    settings: Prune

    @torch.no_grad()
    def take_away(self, model: PreTrainedModel) -> dict[str, Any]:
        for matrix in matrices(model):
            matrix.values.masked_fill_(self._smallest(matrix.name, matrix.values), 0)
        self.restore(model)
        return {}

    def restore(self, model: PreTrainedModel) -> None:
        _kept[model] = [(m.weight, m.weight.detach() != 0) for m in matrices(model)]

    @torch.no_grad()
    def constrain(self, model: PreTrainedModel) -> None:
        for weight, kept in _kept.get(model, ()):
            weight.data.masked_fill_(~kept, 0)

    def _smallest(self, name: str, values: Tensor) -> Tensor:
        """Which weights are pruned, bool [..., outputs, inputs]; of equal ones, the first."""
        size = values.float().abs()
        if self.settings.structure == "2:4":
            if size.shape[-1] % 4:
                raise NoSuchPart(f"{name}: {size.shape[-1]} inputs are no multiple of 4")
            return _lowest(size.unflatten(-1, (-1, 4)), 2).flatten(-2)
        if self.settings.structure == "outputs":
            length = size.square().sum(-1)
            return _lowest(length, self._count(length.shape[-1]))[..., None].expand(size.shape)
        flat = size.flatten(-2)
        return _lowest(flat, self._count(flat.shape[-1])).reshape(size.shape)

    def _count(self, among: int) -> int:
        return round(self.settings.sparsity * among)

    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """The weights that are smallest, by the same rule, are 0 in every matrix."""
        zeros, weights = 0, 0
        for matrix in matrices(model):
            values = matrix.values
            left = float(values[self._smallest(matrix.name, values)].abs().sum())
            share = float((values == 0).float().mean())
            if left > 0:
                raise self.not_in_force(
                    model,
                    f"{share:.1%} of the weights of {matrix.name} are 0, not "
                    f"{self.settings.sparsity:.1%} by {self.settings.structure}",
                )
            zeros, weights = zeros + int((values == 0).sum()), weights + values.numel()
        if not zeros:
            raise self.not_in_force(
                model, f"no weight is 0: a share of {self.settings.sparsity:.3g} rounds to none"
            )
        return {"weights": weights, "zeros": zeros, "sparsity": zeros / weights}


def _lowest(values: Tensor, count: int) -> Tensor:
    """Which of the last dimension are the `count` lowest."""
    chosen = values.argsort(dim=-1, stable=True)[..., :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, chosen, True)
