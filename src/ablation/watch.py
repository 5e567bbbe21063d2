"""What goes on beside a training: progress lines, states that are sealed, stops."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import TrainerCallback

from ablation import sharding
from ablation.progress import Progress
from ablation.states import seal
from ablation.stops import Stops


class Watch(TrainerCallback):
    """Reports progress, seals states, and ends the training when a stop says so."""

    def __init__(self, stops: Stops, label: str, total: int, done: int):
        self.stops, self.label, self.note = stops, label, ""
        self.progress = Progress(label, total, done)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.stops.saw({"step": state.global_step} | (logs or {})):
            control.should_training_stop = True
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.4f}"

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.progress.update(state.global_step, self.note)

    def on_save(self, args, state, control, model=None, **kwargs):
        # a state that is not finite is nothing to resume from; asking waits for all ranks' parts
        finite = sharding.is_finite(model)
        if finite and self.stops.reason != "non_finite" and state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, args, state, control, **kwargs):
        if self.stops.reason and state.is_world_process_zero:
            print(f"{self.label}: {self.stops.reason} at step {state.global_step}", file=sys.stderr)
