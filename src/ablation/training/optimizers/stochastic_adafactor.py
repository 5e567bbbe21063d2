"""Adafactor for bfloat16 weights without float32 copies, by stochastic rounding.

Neighbouring bfloat16 numbers differ by 2^-8 of their size, so a step of 2e-5 would be rounded away.
Here a weight is rounded up or down with probabilities that make its expectation exact. (The other
way is `master_weights.py` beside this file: float32 copies, which need more memory.) Gradients are
summed over micro-batches in float32 too: in bfloat16, 512 times 1/512 makes a half, so the size of
the micro-batch would decide what is learned. The gradient of each single micro-batch is in
bfloat16, as the backward pass computes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from ablation.model.packing import moved
from ablation.training.fsdp import local_part
from ablation.training.optimizers import adafactor_torch
from ablation.training.optimizers.master_weights import ExactState, GradientSums

DECAY_RATE = -0.8  # that of transformers' Adafactor: step t enters the averages with weight t^-0.8
NORM_EPS = 1e-6  # added to the norm by which gradients are clipped, as in torch


class StochasticAdafactor(ExactState):
    """Adafactor (arXiv:1804.04235) in float32 on bfloat16 weights that are rounded stochastically.

    Weight and gradient take 4 bytes a weight, or 6 if micro-batches are added up. The optimizer
    keeps averages of the squared gradients over the rows and columns of each matrix. Formulas and
    settings are those of transformers' `Adafactor` in the Trainer (no momentum, no relative steps,
    no scaling by the weights); on float32 weights both give equal results. A hash of step,
    parameter and place decides whether a weight is rounded up or down, so a resumed training gives
    the same bits. On a GPU fused kernels run, and the CPU does not wait for them.

    Ranks may share the weights, as DTensors that are cut along their first dimension. A step then
    takes three sums over the ranks, each of all weights at once, and clipping one more. Weights are
    the same on any number of ranks, up to the order of these sums.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        clip_threshold: float = 1.0,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "clip_threshold": clip_threshold}
        super().__init__(params, defaults)
        self.gradients = GradientSums(w for group in self.param_groups for w in group["params"])
        # Set by clipping for the next step: sums of squared gradients, and the factor that clips.
        self._sums: dict[Tensor, tuple[Tensor, Tensor]] = {}
        self._scale: Tensor | None = None
        self._shares: dict[Tensor, _Share] = {}

    def _share(self, weight: Tensor) -> _Share:
        if weight not in self._shares:
            self._shares[weight] = _Share(weight)
        return self._shares[weight]

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Clip the gradients to `max_norm` in the next `step`; return their norm before that.

        The formula is that of torch.nn.utils.clip_grad_norm_, but `grad` itself is not changed. The
        step needs the sums of its squares anyway, so clipping reads no gradient a second time.
        """
        self._sums = self._square_sums()
        squares = torch.cat([rows.flatten() for rows, _ in self._sums.values()])[None]
        mesh = self._share(next(iter(self._sums))).mesh
        (total,) = _over_ranks([squares], [mesh is not None], mesh)
        norm = total.sum().sqrt()
        self._scale = (max_norm / (norm + NORM_EPS)).clamp(max=1)
        return norm

    def _square_sums(self) -> dict[Tensor, tuple[Tensor, Tensor]]:
        weights = (weight for group in self.param_groups for weight in group["params"])
        shares = [self._share(weight) for weight in weights if weight.grad is not None]
        return {share.weight: share.kernels.square_sums(share.grad) for share in shares}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sums, scale = self._sums or self._square_sums(), self._scale
        self._sums, self._scale = {}, None
        shares, averages, numbers, salts = [], [], [], []
        for number, group in enumerate(self.param_groups):
            for index, weight in enumerate(group["params"]):
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state |= {"step": 0} | _averages(weight)
                state["step"] += 1
                share = self._share(weight)
                shares.append(share)
                averages.append([_vectors(a) for a in state.values() if torch.is_tensor(a)])
                past = state["step"] ** DECAY_RATE
                numbers.append([group["lr"], group["weight_decay"], past, group["clip_threshold"]])
                salt = parameter_salt(state["step"], number, index) + share.first_place
                salts.append(4 * [_int32(salt)])
        if not shares:
            return loss
        # Four numbers and salts for each weight keep their views aligned for the kernels.
        device = shares[0].part.device
        all_numbers = moved(torch.tensor(numbers), device).unbind()
        all_salts = moved(torch.tensor(salts, dtype=torch.int32), device).unbind()
        if scale is None:
            scale = torch.ones((), device=device)

        mesh, cut_rows = shares[0].mesh, [share.cut_rows for share in shares]
        row_parts, own_parts = zip(*(sums.pop(share.weight) for share in shares), strict=True)
        column_parts = _over_ranks(own_parts, cut_rows, mesh)
        row_sums = [
            share.kernels.averages(rows, columns, own, scale, given, share.all_rows)
            for share, rows, columns, own, given in zip(
                shares, row_parts, column_parts, averages, all_numbers, strict=True
            )
        ]
        row_sums = _over_ranks(row_sums, cut_rows, mesh)
        sizes = [
            share.kernels.sizes(share.grad, own, rows, scale, share.all_rows)
            for share, own, rows in zip(shares, averages, row_sums, strict=True)
        ]
        sizes = _over_ranks(sizes, [mesh is not None] * len(shares), mesh)
        for share, own, rows, size, given, salt in zip(
            shares, averages, row_sums, sizes, all_numbers, all_salts, strict=True
        ):
            whole = share.all_rows, share.numel
            share.kernels.apply(share.part, share.grad, own, rows, size, scale, given, salt, *whole)
        return loss


class _Share:
    """This rank's part of a weight; all of it if ranks do not share it.

    What does not change is found once: for DTensors it takes longer than to start the kernels.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.mesh = weight.device_mesh if isinstance(weight, DTensor) else None
        self.cut_rows = self.mesh is not None and weight.ndim == 2
        self.all_rows = weight.shape[-2] if weight.ndim > 1 else weight.numel()
        self.numel = weight.numel()
        own = local_part(weight.detach())
        self.shape = _as_matrices(own)
        self.kernels = _kernels(own)
        self.first_place = 0  # of the first element of this part in the whole weight
        if self.mesh is not None:
            rows, size = weight.shape[0], self.mesh.size()
            before = min(self.mesh.get_local_rank() * -(-rows // size), rows)  # as torch.chunk cuts
            self.first_place = before * (self.numel // rows)

    @property
    def part(self) -> Tensor:
        return local_part(self.weight).view(self.shape)

    @property
    def grad(self) -> Tensor:
        assert self.weight.grad is not None
        return local_part(self.weight.grad).view(self.shape)


def _kernels(part: Tensor) -> ModuleType:
    """The module that computes with a part: on a GPU that of the Triton kernels."""
    if not part.is_cuda or not part.numel():
        return adafactor_torch
    from ablation.training.optimizers import adafactor_triton

    return adafactor_triton


def _as_matrices(tensor: Tensor) -> tuple[int, int, int]:
    """The shape [matrices, rows, columns] of `tensor`; a vector becomes a matrix of one column."""
    if tensor.dim() < 2:
        return 1, tensor.numel(), 1
    return prod(tensor.shape[:-2]), tensor.shape[-2], tensor.shape[-1]


def _averages(weight: Tensor) -> dict[str, Tensor]:
    """Zero averages of squared gradients: by row and column of each matrix, else by element.

    They are cut as `weight` is, but each rank keeps the averages of all columns of a matrix.
    """
    if weight.ndim < 2:
        return {"exp_avg_sq": torch.zeros_like(weight, dtype=torch.float32)}
    rows = torch.zeros_like(weight[..., 0], dtype=torch.float32)
    if weight.ndim == 2:
        columns = torch.zeros(weight.shape[1], device=weight.device)
    else:
        columns = torch.zeros_like(weight[..., 0, :], dtype=torch.float32)
    return {"exp_avg_sq_row": rows, "exp_avg_sq_col": columns}


def _vectors(average: Tensor) -> Tensor:
    """This rank's part of an average, as [matrices, rows or columns]."""
    own = local_part(average)
    return own.view(1, -1) if own.dim() < 2 else own.flatten(0, -2)


def _over_ranks(parts: Sequence[Tensor], cut: Sequence[bool], mesh: Any) -> list[Tensor]:
    """`parts` [.., parts, ..], each summed over its parts and the ranks if its weight is cut."""
    own = [part.sum(1, keepdim=True) for part, is_cut in zip(parts, cut, strict=True) if is_cut]
    if not own:
        return list(parts)
    flat = torch.cat([part.flatten() for part in own])
    distributed.all_reduce(flat, group=mesh.get_group())
    pieces = iter(flat.split([part.numel() for part in own]))
    sums = (piece.view_as(part) for piece, part in zip(pieces, own, strict=True))
    return [next(sums) if is_cut else part for part, is_cut in zip(parts, cut, strict=True)]


def parameter_salt(steps: int, group: int, index: int) -> int:
    """A different 32-bit number for every step and parameter."""
    mixed = (
        steps * 0x9E3779B97F4A7C15 + group * 0xC2B2AE3D27D4EB4F + index * 0x165667B19E3779F9
    ) % 2**64
    return ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 >> 32) % 2**32 - 2**31


def _int32(number: int) -> int:
    """`number` modulo 2^32, between -2^31 and 2^31 - 1."""
    return (number + 2**31) % 2**32 - 2**31
