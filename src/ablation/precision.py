"""Updates in full precision for weights in bfloat16.

A bfloat16 weight has a spacing of 2^-8 of its size: a step of 2e-5 is rounded away. The optimizer
therefore steps float32 copies, and the weights are their rounded image. Gradients are summed over
micro-batches in float32 too: in bfloat16, 512 times 1/512 makes a half, and how a batch is cut
would decide what is learned. (Each micro-batch's own gradient is in bfloat16, as the backward pass
makes it.)
"""

from __future__ import annotations

import torch
from torch.optim import Optimizer


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
