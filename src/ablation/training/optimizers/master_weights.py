"""Training of bfloat16 weights in full precision: float32 gradient sums and float32 copies."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


class GradientSums:
    """Makes autograd add up the gradients of `weights` in float32, whatever their dtype is.

    The first gradient stays in bfloat16, where it is exact. With the second, `grad` becomes
    float32, one weight at a time; later gradients are added to it in place.
    """

    def __init__(self, weights: Iterable[Tensor]):
        self.weights: list[weakref.ref[Tensor]] = []  # weak, as their hooks refer to this
        self.sums: dict[Tensor, Tensor] = {}  # those that are in no weight's `grad` at the moment
        for weight in weights:
            # FSDP2 itself adds up the gradients of weights that ranks share.
            if weight.dtype != torch.float32 and not isinstance(weight, DTensor):
                weight.grad_dtype = None  # otherwise autograd would cast and write each gradient
                weight.register_hook(partial(self._take, weakref.ref(weight)))
                weight.register_post_accumulate_grad_hook(self._add)
                self.weights.append(weakref.ref(weight))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep the sums out of `grad` during a forward and its backward.

        torch.compile does not compile a width of rows if a weight has a float32 `grad`.
        """
        for reference in self.weights:
            self._take(reference)
        try:
            yield
        finally:
            for weight in list(self.sums):  # these weights received no further gradient
                weight.grad = self.sums.pop(weight)

    def _take(self, reference: weakref.ref[Tensor], _: Tensor | None = None) -> None:
        weight = reference()
        if weight is not None and weight.grad is not None:
            self.sums[weight], weight.grad = weight.grad, None

    def _add(self, weight: Tensor) -> None:
        total, gradient = self.sums.pop(weight, None), weight.grad
        if total is None or gradient is None:
            return
        if total.dtype == torch.float32:
            weight.grad = total.add_(gradient)
        else:
            # The sum plus 1 times the new gradient in one pass; `add` would round to bfloat16.
            weight.grad = torch.addcmul(total, gradient, _one(weight.device))


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones(1, device=device)


class ExactState(Optimizer):
    """An optimizer whose state is loaded in the dtype in which it was saved."""

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)  # this rounds averages to the dtype of the weights
        saved = (i for group in state_dict["param_groups"] for i in group["params"])
        weights = (weight for group in self.param_groups for weight in group["params"])
        for i, weight in zip(saved, weights, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if torch.is_tensor(value):
                    self.state[weight][name] = value.to(weight.device, copy=True)


class MasterWeights(Optimizer):
    """An optimizer around `inner`, which updates float32 copies of its bfloat16 parameters.

    The copies are a part of the optimizer's state. The gradients of the parameters become float32
    (4 bytes a weight) and serve the copies too. Float32 parameters are updated directly, unless
    `every` parameter has a copy. `written` is called whenever parameters were set from the copies.
    """

    def __init__(
        self,
        inner: Optimizer,
        every: bool = False,
        written: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.inner, self.written = inner, written
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []  # (weight, its float32 copy)
        self.gradients = GradientSums(w for group in inner.param_groups for w in group["params"])
        for group in inner.param_groups:
            weights = group["params"]
            direct = () if every else (torch.float32,)
            group["params"] = [w if w.dtype in direct else self._copy(w) for w in weights]
        self.param_groups = inner.param_groups  # both share the learning rates

    def _copy(self, weight: torch.Tensor) -> torch.Tensor:
        master = weight.detach().float().clone()
        self.pairs.append((weight, master))
        return master

    def _hand_over(self) -> None:
        """Give the copies the gradients of their weights."""
        for weight, master in self.pairs:
            if weight.grad is not None:
                weight.grad = weight.grad.float()  # weight and copy share it
            master.grad = weight.grad

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Clip the gradients to `max_norm` in float32; return their norm before that."""
        self._hand_over()
        stepped = [weight for group in self.param_groups for weight in group["params"]]
        return torch.nn.utils.clip_grad_norm_(stepped, max_norm)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self._hand_over()
        loss = self.inner.step(closure)
        for weight, master in self.pairs:
            weight.copy_(master)
            master.grad = None
        self.written()
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
        self.written()
