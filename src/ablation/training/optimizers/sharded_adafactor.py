"""Adafactor for weights that are shared out among ranks.

Algorithm 4 of Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost"
(2018), with the settings of the Trainer: given learning rates and no momentum. A matrix keeps one
average for each row and each column instead of one for each weight. Ranks hold rows, so averages
over rows and the size of an update are sums over ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ablation.training.fsdp import local_part

# The constants of transformers' Adafactor. They are not imported from `stochastic_adafactor`,
# which the code hash of a training with this optimizer leaves out.
SQUARE_EPS = 1e-30  # added to squared gradients
DECAY_RATE = -0.8  # the squares of step t enter the averages with weight t^-0.8


class ShardedAdafactor(Optimizer):
    """transformers.Adafactor with `scale_parameter` and `relative_step` off, for float32 weights.

    Subclasses change how weights are written (`_apply`). The weights are plain tensors, or DTensors
    that are shared out by their first dimension. A step takes two sums over ranks, each of all
    weights at once.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure is not None else None
        pairs = [(g, w) for g in self.param_groups for w in g["params"] if w.grad is not None]
        weights = [weight for _, weight in pairs]
        sums = _over_ranks([self._averaged(weight) for weight in weights], weights)
        for weight, summed in zip(weights, sums, strict=True):
            self._finish_averages(weight, summed)
        squares = (self._update(*pair).square() for pair in zip(weights, sums, strict=True))
        sizes = _over_ranks([square.sum()[None] for square in squares], weights)
        for (group, weight), summed, size in zip(pairs, sums, sizes, strict=True):
            update = self._update(weight, summed)  # computed again: all updates need much memory
            update /= (size / weight.numel()).sqrt().clamp(min=1.0)
            self._apply(weight, update, group["lr"], group["weight_decay"])
        return loss

    def _apply(self, weight: Tensor, update: Tensor, lr: float, decay: float) -> None:
        """Take `lr` times this rank's part of the update, and the decay, from its weights."""
        local_part(weight).mul_(1 - decay * lr).sub_(update, alpha=lr)

    def _averaged(self, weight: Tensor) -> Tensor:
        """Update the averages that need no other rank; return a vector to sum over ranks.

        For a matrix [rows, columns] the vector holds the sums of squares of all columns, and the
        sum of the row averages.
        """
        state = self.state[weight]
        if not state:
            state |= _first_state(weight)
        state["step"] += 1
        squares = _gradient(weight).square() + SQUARE_EPS
        if weight.ndim == 1:
            self._average(weight, "exp_avg_sq", squares)
            return squares[:0]
        row = self._average(weight, "exp_avg_sq_row", squares.mean(-1))
        if weight.ndim > 2:  # each rank holds whole matrices
            self._average(weight, "exp_avg_sq_col", squares.mean(-2))
            return squares.flatten()[:0]
        return torch.cat([squares.sum(0), row.sum()[None]])

    def _finish_averages(self, weight: Tensor, summed: Tensor) -> None:
        if weight.ndim == 2:
            self._average(weight, "exp_avg_sq_col", summed[:-1] / weight.shape[0])

    def _average(self, weight: Tensor, name: str, new: Tensor) -> Tensor:
        past = 1 - float(self.state[weight]["step"]) ** DECAY_RATE
        return local_part(self.state[weight][name]).mul_(past).add_(new, alpha=1 - past)

    def _update(self, weight: Tensor, summed: Tensor) -> Tensor:
        """This rank's part of the update before clipping: the gradient over its average size."""
        state, gradient = self.state[weight], _gradient(weight)
        if weight.ndim == 1:
            return gradient * local_part(state["exp_avg_sq"]).rsqrt()
        row, column = local_part(state["exp_avg_sq_row"]), local_part(state["exp_avg_sq_col"])
        mean = summed[-1] / weight.shape[0] if weight.ndim == 2 else row.mean(-1, keepdim=True)
        return gradient * (row / mean).rsqrt()[..., None] * column.rsqrt()[..., None, :]


def _gradient(weight: Tensor) -> Tensor:
    """This rank's part of the gradient of `weight`, in float32."""
    assert weight.grad is not None
    return local_part(weight.grad).float()


def _first_state(weight: Tensor) -> dict[str, Tensor]:
    """Zeros that are shared out as `weight` is. All ranks keep the column averages of a matrix."""
    step, float32 = {"step": torch.zeros(())}, torch.float32
    if weight.ndim == 1:
        return step | {"exp_avg_sq": torch.zeros_like(weight, dtype=float32)}
    if weight.ndim == 2:
        columns = torch.zeros(weight.shape[1], device=weight.device)
    else:
        columns = torch.zeros_like(weight[..., 0, :], dtype=float32)
    rows = torch.zeros_like(weight[..., 0], dtype=float32)
    return step | {"exp_avg_sq_row": rows, "exp_avg_sq_col": columns}


def _over_ranks(vectors: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """`vectors`, each summed over the ranks."""
    shared = [weight for weight in weights if isinstance(weight, DTensor)]
    if not shared:
        return vectors
    flat = torch.cat(list(vectors))
    distributed.all_reduce(flat, group=shared[0].device_mesh.get_group())
    return flat.split([len(vector) for vector in vectors])
