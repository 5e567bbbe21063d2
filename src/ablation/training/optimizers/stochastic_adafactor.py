"""Adafactor for bfloat16 weights without float32 copies, by stochastic rounding.

Neighbouring bfloat16 numbers differ by 2^-8 of their size, so a step of 2e-5 would be rounded away.
Here a weight is rounded up or down with probabilities that make its expectation exact. (The other
way is `master_weights.py` beside this file: float32 copies, which need more memory.) Gradients are
summed over micro-batches in float32 too: in bfloat16, 512 times 1/512 makes a half, so the size of
the micro-batch would decide what is learned. The gradient of each single micro-batch is in
bfloat16, as the backward pass computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ablation.model.packing import moved
from ablation.training.optimizers.master_weights import ExactState, GradientSums

# The constants of transformers' Adafactor, and of torch's clipping.
SQUARE_EPS = 1e-30  # added to squared gradients
DECAY_RATE = -0.8  # the squares of step t enter the averages with weight t^-0.8
NORM_EPS = 1e-6  # added to the norm by which gradients are clipped


class StochasticAdafactor(ExactState):
    """Adafactor (arXiv:1804.04235) in float32 on bfloat16 weights that are rounded stochastically.

    Weight and gradient take 4 bytes a weight, or 6 if micro-batches are added up. The optimizer
    keeps averages of the squared gradients over the rows and columns of each matrix. Formulas and
    settings are those of transformers' `Adafactor` in the Trainer (no momentum, no relative steps,
    no scaling by the weights); on float32 weights both give equal results. A hash of step,
    parameter and place decides whether a weight is rounded up or down, so a resumed training gives
    the same bits. On a GPU fused kernels run, and the CPU does not wait for them.
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

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Clip the gradients to `max_norm` in the next `step`; return their norm before that.

        The formula is that of torch.nn.utils.clip_grad_norm_, but `grad` itself is not changed. The
        step needs the sums of its squares anyway, so clipping reads no gradient a second time.
        """
        self._sums = self._square_sums()
        norm = torch.cat([rows.flatten() for rows, _ in self._sums.values()]).sum().sqrt()
        self._scale = (max_norm / (norm + NORM_EPS)).clamp(max=1)
        return norm

    def _square_sums(self) -> dict[Tensor, tuple[Tensor, Tensor]]:
        weights = (weight for group in self.param_groups for weight in group["params"])
        return {w: _kernels(w)[0](_matrices(w.grad)) for w in weights if w.grad is not None}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sums, scale = self._sums or self._square_sums(), self._scale
        self._sums, self._scale = {}, None
        for number, group in enumerate(self.param_groups):
            weights, numbers, salts = [], [], []
            for index, weight in enumerate(group["params"]):
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state |= {"step": 0} | _averages(weight)
                state["step"] += 1
                share = state["step"] ** DECAY_RATE
                weights.append(weight)
                numbers.append([group["lr"], group["weight_decay"], share, group["clip_threshold"]])
                salts.append(4 * [parameter_salt(state["step"], number, index)])
            if not weights:
                continue
            # Four numbers and salts for each weight keep their views aligned for the kernels.
            device = weights[0].device
            all_numbers = moved(torch.tensor(numbers), device)
            all_salts = moved(torch.tensor(salts, dtype=torch.int32), device)
            if scale is None:
                scale = torch.ones((), device=device)
            for weight, *own_numbers in zip(weights, all_numbers, all_salts, strict=True):
                averages = [a for a in self.state[weight].values() if torch.is_tensor(a)]
                pair = _matrices(weight.detach()), _matrices(weight.grad)
                _kernels(weight)[1](*pair, *sums.pop(weight), averages, scale, *own_numbers)
        return loss


def _matrices(tensor: Tensor) -> Tensor:
    """`tensor` as [matrices, rows, columns]; a vector becomes a matrix of one column."""
    shape = (1, -1, 1) if tensor.dim() < 2 else (-1, *tensor.shape[-2:])
    return tensor.detach().view(shape)


def _averages(weight: Tensor) -> dict[str, Tensor]:
    """Zero averages of squared gradients: by row and column of each matrix, else by element."""
    shapes: dict[str, tuple[int, ...]]
    if weight.dim() < 2:
        shapes = {"exp_avg_sq": (weight.numel(),)}
    else:
        matrices, rows, columns = _matrices(weight).shape
        shapes = {"exp_avg_sq_row": (matrices, rows), "exp_avg_sq_col": (matrices, columns)}
    return {name: torch.zeros(shape, device=weight.device) for name, shape in shapes.items()}


def parameter_salt(steps: int, group: int, index: int) -> int:
    """A different 32-bit number for every step and parameter."""
    mixed = (
        steps * 0x9E3779B97F4A7C15 + group * 0xC2B2AE3D27D4EB4F + index * 0x165667B19E3779F9
    ) % 2**64
    return ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 >> 32) % 2**32 - 2**31


def _square_sums(grad: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of the squares of `grad` [matrices, rows, columns] by row, and by column."""
    square = grad.float().square()
    return square.sum(-1), square.sum(-2)


def _update(
    weight: Tensor,
    grad: Tensor,
    rows: Tensor,
    columns: Tensor,
    averages: list[Tensor],
    scale: Tensor,
    numbers: Tensor,
    salt: Tensor,
) -> None:
    """Update `averages` and `weight` [matrices, rows, columns] in place by `scale` times `grad`.

    `rows` and `columns` are the sums of the squares of `grad`. `numbers` are learning rate, decay,
    the weight of this step's squares in the averages, and the threshold for clipping the update.
    """
    lr, decay, share, clip_threshold = numbers.unbind()
    sums, counts = (rows, columns), (columns.shape[-1], rows.shape[-1])
    for average, total, count in zip(
        averages, sums, counts, strict=False
    ):  # a vector has no columns
        mean = total * (scale * scale / count) + SQUARE_EPS
        average.lerp_(mean.view_as(average), share)
    row, *column = averages
    update = scale * grad.float()
    if column:
        by_row = (row / row.mean(-1, keepdim=True)).rsqrt()
        update *= by_row[..., None] * column[0].rsqrt()[..., None, :]
    else:
        update *= row.rsqrt().view_as(update)
    size = update.square().mean().sqrt()
    update *= lr / (size / clip_threshold).clamp(min=1)
    new = weight.float() * (1 - lr * decay) - update
    place = torch.arange(weight.numel(), device=weight.device, dtype=torch.int32)
    weight.copy_(rounded(new, hashed(place + salt[0]).view_as(weight), weight.dtype))


def _kernels(weight: Tensor) -> tuple[Callable, Callable]:
    """`_square_sums` and `_update`, on a GPU as fused Triton kernels."""
    if not weight.is_cuda:
        return _square_sums, _update
    from ablation.training.optimizers import adafactor_triton

    return adafactor_triton.square_sums, adafactor_triton.update


def hashed(x: Tensor) -> Tensor:
    """Murmur3's finalizer on int32: all bits of the result depend on all bits of `x`."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387
    return x ^ ((x >> 16) & 0xFFFF)


def rounded(x: Tensor, random: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 `x` in `dtype`; for bfloat16, add the low 16 bits of `random` and truncate."""
    if dtype != torch.bfloat16:
        return x.to(dtype)
    bits = (x.view(torch.int32) + (random & 0xFFFF)) & -65536
    return bits.view(torch.float32).to(dtype)
