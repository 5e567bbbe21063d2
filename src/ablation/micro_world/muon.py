"""The optimizers of small models: Muon for their matrices, AdamW for the other weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalized updates (Jordan 2024, kellerjordan.github.io/posts/muon).

    Matrices of equal shape are orthogonalized in one batch and in float32; torch.optim.Muon takes
    one after the other in bfloat16. Updates are scaled to the root mean square of an AdamW update,
    as in Liu et al. 2025 (arXiv:2502.16982), so that learning rates of both are comparable.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch overloads it
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                nesterov = [
                    p.grad.lerp(self.state[p]["momentum"], group["momentum"]) for p in parameters
                ]
                updates = orthogonalize(torch.stack(nesterov))
                step_size = group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.add_(update, alpha=-step_size)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Move the singular values of each matrix near 1 by five Newton-Schulz steps.

    `matrices` and the result are [count, rows, columns].
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Optimizers:
    """Muon over the matrices of a model, and AdamW over its embeddings, head and vectors."""

    def __init__(self, model: nn.Module, lr_muon: float, lr_adamw: float) -> None:
        matrices = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        ]
        others = [p for p in model.parameters() if all(p is not m for m in matrices)]
        self._both: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, lr=lr_muon),
            torch.optim.AdamW(others, lr=lr_adamw, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        self._learning_rates = (lr_muon, lr_adamw)

    def step(self, rate: float) -> None:
        """Update all weights with learning rates multiplied by `rate`, and clear the gradients."""
        for optimizer, learning_rate in zip(self._both, self._learning_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
