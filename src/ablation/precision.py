"""Updates in full precision for weights in bfloat16.

A bfloat16 weight has a spacing of 2^-8 of its size: a step of 2e-5 is rounded away. The optimizer
therefore steps float32 copies, and the weights are their rounded image. Gradients are summed over
micro-batches in float32 too: in bfloat16, 512 times 1/512 makes a half, and how a batch is cut
would decide what is learned. (Each micro-batch's own gradient is in bfloat16, as the backward pass
makes it.) Where memory is short, weights are rounded stochastically instead: up or down with the
probability that makes the expectation exact.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from ablation.packing import moved

# Adafactor's, as transformers has them.
SQUARE_EPS = 1e-30  # added to squared gradients
DECAY_RATE = -0.8  # step t's squares enter the averages with weight t^-0.8
NORM_EPS = 1e-6  # added to the norm that gradients are clipped by, as torch does


class GradientSums:
    """Has autograd add up the gradients of `weights` in float32, whatever their own dtype.

    The first one is left as it was made: in bfloat16, the same number. With the second, `grad`
    becomes float32, a weight at a time, and later ones are added to it in place.
    """

    def __init__(self, weights: Iterable[Tensor]):
        self.weights: list[weakref.ref[Tensor]] = []  # which refer to this object
        self.sums: dict[Tensor, Tensor] = {}  # while no weight has them
        for weight in weights:
            if weight.dtype != torch.float32:
                weight.grad_dtype = None  # else autograd would cast each, and write it once more
                weight.register_hook(partial(self._take, weakref.ref(weight)))
                weight.register_post_accumulate_grad_hook(self._add)
                self.weights.append(weakref.ref(weight))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """For a forward and its backward: torch.compile gives up where a float32 `grad` meets it.

        It would leave that width of rows uncompiled for good.
        """
        for weight in self.weights:
            self._take(weight)
        try:
            yield
        finally:
            for weight in list(self.sums):  # that had no further gradient
                weight.grad = self.sums.pop(weight)

    def _take(self, weight: weakref.ref[Tensor], _: Tensor | None = None) -> None:
        weight = weight()
        if weight.grad is not None:
            self.sums[weight], weight.grad = weight.grad, None

    def _add(self, weight: Tensor) -> None:
        total = self.sums.pop(weight, None)
        if total is not None and total.dtype == torch.float32:
            weight.grad = total.add_(weight.grad)
        elif total is not None:
            # the sum + 1 * the new one, in one pass: `add` would round it to their own dtype
            weight.grad = torch.addcmul(total, weight.grad, _one(weight.device))


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones(1, device=device)


class MasterWeights(Optimizer):
    """Any optimizer, stepping float32 copies of its parameters that are kept in its state.

    The gradients of the parameters become float32: 4 bytes a weight, for which the copies need
    none of their own. Parameters that are float32 already are stepped themselves.
    """

    def __init__(self, inner: Optimizer):
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []  # (weight, its float32 copy)
        self.gradients = GradientSums(w for group in inner.param_groups for w in group["params"])
        for group in inner.param_groups:
            weights = group["params"]
            group["params"] = [w if w.dtype == torch.float32 else self._copy(w) for w in weights]
        self.param_groups = inner.param_groups  # one set of learning rates

    def _copy(self, weight: torch.Tensor) -> torch.Tensor:
        master = weight.detach().float().clone()
        self.pairs.append((weight, master))
        return master

    def _hand_over(self) -> None:
        for weight, master in self.pairs:
            if weight.grad is not None:
                weight.grad = weight.grad.float()  # the one of both, so that one is held
            master.grad = weight.grad

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Clip the gradients to `max_norm` in float32; their norm before."""
        self._hand_over()
        stepped = [weight for group in self.param_groups for weight in group["params"]]
        return torch.nn.utils.clip_grad_norm_(stepped, max_norm)

    @torch.no_grad()
    def step(self, closure=None):
        self._hand_over()
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

    4 bytes a weight, 6 where micro-batches are added up: weight and gradient. Of the squared
    gradients of a matrix, averages of its rows and columns are kept. Formulas and settings are
    those of transformers' `Adafactor` in the Trainer (no momentum, no relative steps, no scaling by
    the weights), which it equals on float32 weights. Which way a weight is rounded is decided by a
    hash of step, parameter and place, so that a resumed training goes on with the same bits. On a
    GPU fused kernels, and no waiting for them.
    """

    def __init__(self, params, lr=1e-3, weight_decay=0.0, clip_threshold=1.0):
        defaults = {"lr": lr, "weight_decay": weight_decay, "clip_threshold": clip_threshold}
        super().__init__(params, defaults)
        self.gradients = GradientSums(w for group in self.param_groups for w in group["params"])
        self._sums: dict[Tensor, tuple[Tensor, Tensor]] = {}  # of gradients to be stepped, clipped
        self._scale: Tensor | None = None  # what they are multiplied by

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Have the next `step` take the present gradients clipped to `max_norm`; their norm before.

        The formula of torch.nn.utils.clip_grad_norm_, but `grad` itself stays as it is: its squares
        are summed for the step anyway, and not even read for this.
        """
        self._sums = self._square_sums()
        norm = torch.cat([rows.flatten() for rows, _ in self._sums.values()]).sum().sqrt()
        self._scale = (max_norm / (norm + NORM_EPS)).clamp(max=1)
        return norm

    def _square_sums(self) -> dict[Tensor, tuple[Tensor, Tensor]]:
        weights = (weight for group in self.param_groups for weight in group["params"])
        return {w: _kernels(w)[0](_matrices(w.grad)) for w in weights if w.grad is not None}

    @torch.no_grad()
    def step(self, closure=None):
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
                salts.append(4 * [_salt(state["step"], number, index)])
            if not weights:
                continue
            # four to a weight: views of them stay aligned, as the kernels want them
            numbers = moved(torch.tensor(numbers), weights[0].device)
            salts = moved(torch.tensor(salts, dtype=torch.int32), weights[0].device)
            if scale is None:
                scale = torch.ones((), device=weights[0].device)
            for weight, *its in zip(weights, numbers, salts, strict=True):
                averages = [a for a in self.state[weight].values() if torch.is_tensor(a)]
                pair = _matrices(weight.detach()), _matrices(weight.grad)
                _kernels(weight)[1](*pair, *sums.pop(weight), averages, scale, *its)
        return loss

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)  # rounds averages to the dtype of the weights
        saved = (i for group in state_dict["param_groups"] for i in group["params"])
        weights = (weight for group in self.param_groups for weight in group["params"])
        for i, weight in zip(saved, weights, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if torch.is_tensor(value):
                    self.state[weight][name] = value.to(weight.device, copy=True)


def _matrices(tensor: Tensor) -> Tensor:
    """`tensor` as [matrices, rows, columns]; a vector as a matrix of one column."""
    shape = (1, -1, 1) if tensor.dim() < 2 else (-1, *tensor.shape[-2:])
    return tensor.detach().view(shape)


def _averages(weight: Tensor) -> dict[str, Tensor]:
    """Of squared gradients: by row and column of each matrix in `weight`, else by element."""
    if weight.dim() < 2:
        shapes = {"exp_avg_sq": (weight.numel(),)}
    else:
        matrices, rows, columns = _matrices(weight).shape
        shapes = {"exp_avg_sq_row": (matrices, rows), "exp_avg_sq_col": (matrices, columns)}
    return {name: torch.zeros(shape, device=weight.device) for name, shape in shapes.items()}


def _salt(steps: int, group: int, index: int) -> int:
    """A different 32-bit number for every step and parameter."""
    mixed = (
        steps * 0x9E3779B97F4A7C15 + group * 0xC2B2AE3D27D4EB4F + index * 0x165667B19E3779F9
    ) % 2**64
    return ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 >> 32) % 2**32 - 2**31


def _square_sums(grad: Tensor) -> tuple[Tensor, Tensor]:
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

    `rows` and `columns` are sums of the squares of `grad`; `numbers` are learning rate, decay, the
    share of this step's squares and the threshold to which the update is clipped.
    """
    lr, decay, share, clip_threshold = numbers.unbind()
    sums, counts = (rows, columns), (columns.shape[-1], rows.shape[-1])
    for average, total, count in zip(averages, sums, counts, strict=False):  # no columns: a vector
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
    weight.copy_(_rounded(new, _hash(place + salt[0]).view_as(weight), weight.dtype))


def _kernels(weight: Tensor) -> tuple[Callable, Callable]:
    """`_square_sums` and `_update`; for a GPU, which alone has Triton, fused."""
    if not weight.is_cuda:
        return _square_sums, _update
    from ablation import adafactor_kernels

    return adafactor_kernels.square_sums, adafactor_kernels.update


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
