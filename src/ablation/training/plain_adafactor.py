"""Adafactor directly on bfloat16 weights, as the published code trained: for comparison alone.

Gradients are added up in bfloat16, and each updated weight is rounded to the nearest bfloat16
number. At a learning rate of 2e-5 that loses most updates (docs/footguns.md);
`ablation.training.stochastic_adafactor` keeps them in expectation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from transformers import Adafactor

from ablation.training.master_weights import ExactState


class PlainAdafactor(ExactState, Adafactor):
    """transformers' Adafactor with the Trainer's settings: no relative steps and no scaling."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        options = {"scale_parameter": False, "relative_step": False}
        super().__init__(params, lr=lr, weight_decay=weight_decay, **options)
