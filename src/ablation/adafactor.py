"""Adafactor over weights that are shared out among ranks.

Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost" (2018), algorithm
4, as the Trainer sets it up: rates as given, no momentum. A matrix keeps one average a row and one
a column in place of one a weight. Ranks hold rows: averages over rows, and the size of an update,
are sums over ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ablation.precision import DECAY_RATE, SQUARE_EPS
from ablation.sharding import local


class ShardedAdafactor(Optimizer):
    """transformers.Adafactor with `scale_parameter` and `relative_step` off, for float32 weights.

    They are plain, or DTensors shared out by their first dimension. Two sums over ranks a step,
    each of all weights at once.
    """

    def __init__(self, params, lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        found = [(g, w) for g in self.param_groups for w in g["params"] if w.grad is not None]
        weights = [weight for _, weight in found]
        sums = _over_ranks([self._averaged(weight) for weight in weights], weights)
        for weight, summed in zip(weights, sums, strict=True):
            self._finish_averages(weight, summed)
        pairs = list(zip(weights, sums, strict=True))
        sizes = _over_ranks([self._update(*pair).square().sum()[None] for pair in pairs], weights)
        for (group, weight), summed, size in zip(found, sums, sizes, strict=True):
            update = self._update(weight, summed)  # again: kept, all together fill the memory
            update /= (size / weight.numel()).sqrt().clamp(min=1.0)
            own = local(weight)
            own.mul_(1 - group["weight_decay"] * group["lr"]).sub_(update, alpha=group["lr"])
        return loss

    def _averaged(self, weight: Tensor) -> Tensor:
        """Average in what this rank knows alone; what is to be summed over ranks, a vector.

        Of a matrix [rows, columns] these are the squares of each column, and the row averages.
        """
        state = self.state[weight]
        if not state:
            state |= _first_state(weight)
        state["step"] += 1
        squares = local(weight.grad).square() + SQUARE_EPS
        if weight.ndim == 1:
            self._average(weight, "exp_avg_sq", squares)
            return squares[:0]
        row = self._average(weight, "exp_avg_sq_row", squares.mean(-1))
        if weight.ndim > 2:  # ranks hold whole matrices
            self._average(weight, "exp_avg_sq_col", squares.mean(-2))
            return squares.flatten()[:0]
        return torch.cat([squares.sum(0), row.sum()[None]])

    def _finish_averages(self, weight: Tensor, summed: Tensor) -> None:
        if weight.ndim == 2:
            self._average(weight, "exp_avg_sq_col", summed[:-1] / weight.shape[0])

    def _average(self, weight: Tensor, name: str, new: Tensor) -> Tensor:
        past = 1 - float(self.state[weight]["step"]) ** DECAY_RATE
        return local(self.state[weight][name]).mul_(past).add_(new, alpha=1 - past)

    def _update(self, weight: Tensor, summed: Tensor) -> Tensor:
        """This rank's part of the update, before it is clipped: the gradient over its size."""
        state, gradient = self.state[weight], local(weight.grad)
        if weight.ndim == 1:
            return gradient * local(state["exp_avg_sq"]).rsqrt()
        row, column = local(state["exp_avg_sq_row"]), local(state["exp_avg_sq_col"])
        mean = summed[-1] / weight.shape[0] if weight.ndim == 2 else row.mean(-1, keepdim=True)
        return gradient * (row / mean).rsqrt()[..., None] * column.rsqrt()[..., None, :]


def _first_state(weight: Tensor) -> dict[str, Tensor]:
    """Zeros; shared out as `weight` is, but for the columns of a matrix, which all ranks keep."""
    step = {"step": torch.zeros(())}
    if weight.ndim == 1:
        return step | {"exp_avg_sq": torch.zeros_like(weight)}
    if weight.ndim == 2:
        columns = torch.zeros(weight.shape[1], device=weight.device)
    else:
        columns = torch.zeros_like(weight[..., 0, :])
    rows = torch.zeros_like(weight[..., 0])
    return step | {"exp_avg_sq_row": rows, "exp_avg_sq_col": columns}


def _over_ranks(vectors: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """`vectors`, each summed over the ranks."""
    if not any(isinstance(weight, DTensor) for weight in weights):
        return vectors
    flat = torch.cat(list(vectors))
    distributed.all_reduce(flat)
    return flat.split([len(vector) for vector in vectors])
