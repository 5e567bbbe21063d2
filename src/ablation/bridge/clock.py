"""Seconds of each optimizer step of a training, with its data; looks at dev and saves left out."""

from __future__ import annotations

import statistics
import time

import torch
from transformers import TrainerCallback


class Clock(TrainerCallback):
    def __init__(self):
        self.seconds: list[float] = []
        self.started = 0.0

    def on_train_begin(self, *_, **__):
        self.started = _now()

    on_evaluate = on_save = on_train_begin

    def on_step_end(self, *_, **__):
        now = _now()
        self.seconds.append(now - self.started)
        self.started = now

    def median(self) -> float | None:
        """Of all steps but the first, which warms up, where there are more."""
        steps = self.seconds[1:] or self.seconds
        return round(statistics.median(steps), 4) if steps else None


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
