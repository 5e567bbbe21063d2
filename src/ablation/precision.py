"""Updates in full precision for weights in bfloat16.

A bfloat16 weight has a spacing of 2^-8 of its size: a step of 2e-5 is rounded away. The optimizer
therefore steps float32 copies, and the weights are their rounded image. Gradients are summed over
micro-batches in float32 too: in bfloat16, 512 times 1/512 makes a half, and how a batch is cut
would decide what is learned. (Each micro-batch's own gradient is in bfloat16, as the backward pass
makes it.) Where memory is short, weights are rounded stochastically instead: up or down with the
probability that makes the expectation exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod

import torch
from torch import Tensor
from torch.optim import Optimizer

from ablation.packing import moved

# Adafactor's, as transformers has them.
SQUARE_EPS = 1e-30  # added to squared gradients
DECAY_RATE = -0.8  # step t's squares enter the averages with weight t^-0.8


class MasterWeights(Optimizer):
    """Any optimizer, stepping float32 copies of its parameters that are kept in its state.

    The gradients of the parameters become float32: 4 bytes a weight, for which the copies need
    none of their own. Parameters that are float32 already are stepped themselves.
    """

    def __init__(self, inner: Optimizer):
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []  # (weight, its float32 copy)
        for group in inner.param_groups:
            weights = group["params"]
            group["params"] = [w if w.dtype == torch.float32 else self._copy(w) for w in weights]
        self.param_groups = inner.param_groups  # one set of learning rates

    def _copy(self, weight: torch.Tensor) -> torch.Tensor:
        weight.grad_dtype = torch.float32  # autograd casts, then adds
        master = weight.detach().float().clone()
        self.pairs.append((weight, master))
        return master

    @torch.no_grad()
    def step(self, closure=None):
        for weight, master in self.pairs:
            master.grad = weight.grad
        loss = self.inner.step(closure)
        for weight, master in self.pairs:
            weight.copy_(master)
            master.grad = None
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)
        for weight, _ in self.pairs:
            weight.grad = None

    def state_dict(self) -> dict:
        return {"inner": self.inner.state_dict(), "masters": [master for _, master in self.pairs]}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        self.inner.load_state_dict(state["inner"])
        self.param_groups = self.inner.param_groups
        for (weight, master), saved in zip(self.pairs, state["masters"], strict=True):
            master.copy_(saved)
            weight.copy_(master)


class StochasticAdafactor(Optimizer):
    """Adafactor (arXiv:1804.04235) in float32 on bfloat16 weights that are rounded stochastically.

    6 bytes a weight, of which 4 are the gradient: of the squared gradients of a matrix, averages of
    its rows and columns are kept. Formulas and settings are those of transformers' `Adafactor` in
    the Trainer (no momentum, no relative steps, no scaling by the weights), which it equals on
    float32 weights. Which way a weight is rounded is decided by a hash of step, parameter and
    place, so that a resumed training goes on with the same bits. On a GPU fused kernels, and no
    waiting for them.

    `grad_dtype` is that of bfloat16 weights' gradients, in which micro-batches are added up.
    """

    def __init__(
        self, params, lr=1e-3, weight_decay=0.0, clip_threshold=1.0, grad_dtype=torch.float32
    ):
        defaults = {"lr": lr, "weight_decay": weight_decay, "clip_threshold": clip_threshold}
        super().__init__(params, defaults)
        for weight in (weight for group in self.param_groups for weight in group["params"]):
            if weight.dtype != torch.float32:
                weight.grad_dtype = grad_dtype

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
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
                salts.append(4 * [_salt(state["step"], number, index)])
            if not weights:
                continue
            # four to a weight: views of them stay aligned, as the kernels want them
            numbers = moved(torch.tensor(numbers), weights[0].device)
            salts = moved(torch.tensor(salts, dtype=torch.int32), weights[0].device)
            for weight, *its in zip(weights, numbers, salts, strict=True):
                _update(weight, self.state[weight], *its)
        return loss

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)  # rounds averages to the dtype of the weights
        saved = (i for group in state_dict["param_groups"] for i in group["params"])
        weights = (weight for group in self.param_groups for weight in group["params"])
        for i, weight in zip(saved, weights, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if torch.is_tensor(value):
                    self.state[weight][name] = value.to(weight.device, copy=True)


def _averages(weight: Tensor) -> dict[str, Tensor]:
    """Of squared gradients: by row and column of each matrix in `weight`, else by element."""
    if weight.dim() < 2:
        shapes = {"exp_avg_sq": (weight.numel(),)}
    else:
        rows, columns = weight.shape[-2:]
        matrices = weight.numel() // (rows * columns)
        shapes = {"exp_avg_sq_row": (matrices, rows), "exp_avg_sq_col": (matrices, columns)}
    return {name: torch.zeros(shape, device=weight.device) for name, shape in shapes.items()}


def _update(weight: Tensor, state: dict, numbers: Tensor, salt: Tensor) -> None:
    on = _compiled if weight.is_cuda else lambda function: function
    if weight.dim() < 2:
        shape, factors, averages = (-1,), _element_factors, [state["exp_avg_sq"]]
    else:
        shape, factors = (-1, *weight.shape[-2:]), _matrix_factors
        averages = [state["exp_avg_sq_row"], state["exp_avg_sq_col"]]
    grad = weight.grad.detach().reshape(shape)
    # two graphs: in one, the compiler would write the whole update to memory in between
    factors = on(factors)(grad, *averages, numbers)
    on(_apply)(weight.detach().view(shape), grad, numbers, salt, *factors)


def _salt(steps: int, group: int, index: int) -> int:
    """A different 32-bit number for every step and parameter."""
    mixed = (
        steps * 0x9E3779B97F4A7C15 + group * 0xC2B2AE3D27D4EB4F + index * 0x165667B19E3779F9
    ) % 2**64
    return ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 >> 32) % 2**32 - 2**31


def _element_factors(grad: Tensor, square: Tensor, numbers: Tensor) -> tuple[Tensor]:
    grad = grad.float()
    square.lerp_(grad * grad + SQUARE_EPS, numbers[2])
    return (square.rsqrt(),)


def _matrix_factors(
    grad: Tensor, row: Tensor, column: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor]:
    """Of `grad` [matrices, rows, columns], from the averages of its squares by row and column."""
    grad = grad.float()
    square, share = grad * grad + SQUARE_EPS, numbers[2]
    row.lerp_(square.mean(-1), share)
    column.lerp_(square.mean(-2), share)
    by_row = (row / row.mean(-1, keepdim=True)).rsqrt()
    return by_row[..., None], column.rsqrt()[..., None, :]


def _apply(weight: Tensor, grad: Tensor, numbers: Tensor, salt: Tensor, *factors: Tensor) -> None:
    lr, decay, _, clip_threshold = numbers.unbind()
    update = prod(factors) * grad.float()
    size = update.square().mean().sqrt()
    update = update * (lr / (size / clip_threshold).clamp(min=1))
    new = weight.float() * (1 - lr * decay) - update
    place = torch.arange(weight.numel(), device=weight.device, dtype=torch.int32)
    weight.copy_(_rounded(new, _hash(place + salt[0]).view_as(weight), weight.dtype))


@cache
def _compiled(function: Callable) -> Callable:
    # beyond it torch would run it uncompiled, which holds matrices several times over in float32
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=True)


def _hash(x: Tensor) -> Tensor:
    """Murmur3's finalizer on int32: all bits of the result depend on all bits of `x`."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387
    return x ^ ((x >> 16) & 0xFFFF)


def _rounded(x: Tensor, random: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 `x` in `dtype`; bfloat16 by adding the low 16 bits of `random` and cutting."""
    if dtype != torch.bfloat16:
        return x.to(dtype)
    bits = (x.view(torch.int32) + (random & 0xFFFF)) & -65536
    return bits.view(torch.float32).to(dtype)
