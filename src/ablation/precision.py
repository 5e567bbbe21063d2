"""Updates in full precision for weights in bfloat16.

A bfloat16 weight has a spacing of 2^-8 of its size: a step of 2e-5 is rounded away. The optimizer
therefore steps float32 copies, and the weights are their rounded image. Gradients are summed over
micro-batches in float32 too: in bfloat16, 512 times 1/512 makes a half, and how a batch is cut
would decide what is learned. (Each micro-batch's own gradient is in bfloat16, as the backward pass
makes it.) Where memory is short, weights and averages are rounded stochastically instead: up or
down with the probability that makes the expectation exact.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.optim import Optimizer

from ablation.packing import moved


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


class StochasticAdamW(Optimizer):
    """AdamW in float32 whose weights and averages are kept in the weights' dtype: 8 bytes a weight.

    Weights, gradients and both averages in bfloat16, rounded stochastically. Decoupled weight
    decay, bias correction and epsilon as `torch.optim.AdamW`, which it equals on float32 weights.
    Which way a number is rounded is decided by a hash of step, parameter and place, so that a
    resumed training goes on with the same bits. On a GPU one fused kernel a parameter, and no
    waiting for it.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "steps": 0}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            group["steps"] += 1
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            steps, (beta1, beta2) = group["steps"], group["betas"]
            numbers = torch.tensor(
                [group["lr"], group["weight_decay"], group["eps"], beta1, beta2]
                + [1 - beta1**steps, 1 - beta2**steps]
            )
            # four to a weight: views of it stay aligned, as the kernels want them
            salts = torch.tensor([4 * [_salt(steps, number, i)] for i in range(len(weights))])
            device = weights[0].device
            numbers, salts = moved(numbers, device), moved(salts.int(), device)
            for weight, salt in zip(weights, salts, strict=True):
                state = self.state[weight]
                if not state:
                    state["exp_avg"] = torch.zeros_like(weight)
                    state["exp_avg_sq"] = torch.zeros_like(weight)
                tensors = (weight, weight.grad, state["exp_avg"], state["exp_avg_sq"])
                update = _compiled_update() if weight.is_cuda else _update
                update(*(tensor.detach().view(-1) for tensor in tensors), numbers, salt)
        return loss


def _salt(steps: int, group: int, index: int) -> int:
    """A different 32-bit number for every step and parameter."""
    mixed = (
        steps * 0x9E3779B97F4A7C15 + group * 0xC2B2AE3D27D4EB4F + index * 0x165667B19E3779F9
    ) % 2**64
    return ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 >> 32) % 2**32 - 2**31


def _update(weight: Tensor, grad: Tensor, average: Tensor, square: Tensor, numbers, salt) -> None:
    lr, decay, eps, beta1, beta2, correction1, correction2 = numbers.unbind()
    grad = grad.float()
    m = torch.lerp(grad, average.float(), beta1)
    v = torch.lerp(grad * grad, square.float(), beta2)
    step = lr / correction1 * m / ((v / correction2).sqrt() + eps)
    new = weight.float() * (1 - lr * decay) - step
    place = torch.arange(weight.numel(), device=weight.device, dtype=torch.int32)
    first = _hash(place * 2 + salt[0])
    second = _hash(place * 2 + 1 + salt[0])
    weight.copy_(_rounded(new, first, weight.dtype))
    average.copy_(_rounded(m, first >> 16, weight.dtype))
    square.copy_(_rounded(v, second, weight.dtype))


@cache
def _compiled_update():
    return torch.compile(_update, dynamic=True)


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
