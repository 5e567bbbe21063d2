"""Adafactor with stochastic rounding for bfloat16 weights that are shared out among ranks.

A rank keeps 6 bytes for each of its weights: the weight in bfloat16, and the float32 sum of its
gradients. The averages of squared gradients are one number for each row and column.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ablation.training.fsdp import local_part
from ablation.training.optimizers.master_weights import ExactState
from ablation.training.optimizers.sharded_adafactor import ShardedAdafactor
from ablation.training.optimizers.stochastic_adafactor import hashed, parameter_salt, rounded

PART = 1 << 22  # weights that are rounded at a time, to bound the memory of the step


class ShardedStochasticAdafactor(ExactState, ShardedAdafactor):
    """`ShardedAdafactor` on weights that are rounded as `StochasticAdafactor` rounds them.

    The hash that decides how a weight is rounded takes the place of the weight in the whole tensor.
    So weights are the same on any number of ranks, up to the order of the sums over them.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self._indices = {
            weight: (number, index)
            for number, group in enumerate(self.param_groups)
            for index, weight in enumerate(group["params"])
        }

    def _apply(self, weight: Tensor, update: Tensor, lr: float, decay: float) -> None:
        steps = int(self.state[weight]["step"])
        salt = parameter_salt(steps, *self._indices[weight]) + _first_place(weight)
        parts = [tensor.view(-1).split(PART) for tensor in (local_part(weight), update)]
        for own, change in zip(*parts, strict=True):
            new = own.float() * (1 - decay * lr) - lr * change
            places = torch.arange(own.numel(), device=own.device, dtype=torch.int32)
            own.copy_(rounded(new, hashed(places + _int32(salt)), own.dtype))
            salt += own.numel()


def _first_place(weight: Tensor) -> int:
    """The place in the whole tensor of the first element of this rank's part of `weight`."""
    if not isinstance(weight, DTensor):
        return 0
    mesh, rows = weight.device_mesh, weight.shape[0]
    rows_before = min(mesh.get_local_rank() * -(-rows // mesh.size()), rows)  # as torch.chunk cuts
    return rows_before * (weight.numel() // rows)


def _int32(number: int) -> int:
    """`number` modulo 2^32, between -2^31 and 2^31 - 1."""
    return (number + 2**31) % 2**32 - 2**31
