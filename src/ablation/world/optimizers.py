"""Muon for the matrices of a small model, AdamW for the rest, under one schedule."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized (Jordan 2024, kellerjordan.github.io/posts/muon).

    Equally shaped matrices are orthogonalized in one batch and in float32 (torch.optim.Muon goes
    one by one in bfloat16). The update is scaled to the root mean square of an AdamW update, as in
    Liu et al. 2025 (arXiv:2502.16982), so that learning rates of both are of one kind.
    """

    def __init__(self, parameters, lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
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
    """[count, rows, columns] -> singular values pushed near 1 by five Newton-Schulz steps."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Optimizers:
    """Both optimizers over a model; `step(rate)` multiplies both learning rates by `rate`."""

    def __init__(self, model: nn.Module, lr_muon: float, lr_adamw: float):
        matrices = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        ]
        others = [p for p in model.parameters() if all(p is not m for m in matrices)]
        self._both = (
            Muon(matrices, lr=lr_muon),
            torch.optim.AdamW(others, lr=lr_adamw, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        self._learning_rates = (lr_muon, lr_adamw)

    def step(self, rate: float) -> None:
        for optimizer, learning_rate in zip(self._both, self._learning_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
