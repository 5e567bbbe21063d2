"""Measures the seconds of each optimizer step, with its data but without evaluations and saves."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from transformers import TrainerCallback


class StepClock(TrainerCallback):
    """Records the seconds of each step of a training."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = _now()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self.started = _now()

    def on_save(self, *_: Any, **__: Any) -> None:
        self.started = _now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = _now()
        self.seconds.append(now - self.started)
        self.started = now

    def median(self) -> float | None:
        """The median over all steps but the first, which warms up; None without a step."""
        steps = self.seconds[1:] or self.seconds
        return round(statistics.median(steps), 4) if steps else None


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
