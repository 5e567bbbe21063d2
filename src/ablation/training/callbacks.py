"""The callback of a training: prints progress, seals checkpoints and stops the training early."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ablation.console.progress import Progress
from ablation.training import fsdp
from ablation.training.checkpoints import record_step, seal
from ablation.training.early_stopping import NON_FINITE, Stops


class SnakemakeEnded(RuntimeError):
    """The process that started the training has ended, so nobody would use its result."""


class Watch(TrainerCallback):
    """Prints progress, seals checkpoints, and ends the training if `stops` gives a reason.

    If the process that started this one ends, such as a Snakemake that is killed, the training is
    saved at the next step that is logged and raises SnakemakeEnded. Otherwise the same command
    would start a second training, and Snakemake would remove the results of the first one.

    label: the beginning of progress lines.
    total, done: all steps of the training, and those that earlier attempts have done.
    """

    def __init__(self, stops: Stops, label: str, total: int, done: int) -> None:
        self.stops, self.label, self.note = stops, label, ""
        self.progress = Progress(label, total, done)
        self.parent = os.getppid()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.stops.observe({"step": state.global_step} | (logs or {})):
            control.should_training_stop = True
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.4f}"

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            assert args.output_dir is not None
            record_step(args.output_dir, state.global_step)
            self.progress.update(state.global_step, self.note)
        if os.getppid() != self.parent and state.global_step % args.logging_steps == 0:
            control.should_save = True  # between logged steps, the next loss would be another one

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        # A checkpoint whose weights are not finite cannot be resumed from. All ranks have saved
        # their parts when this check returns.
        assert model is not None and args.output_dir is not None
        finite = fsdp.is_finite(model)
        if finite and self.stops.reason != NON_FINITE and state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            if os.getppid() != self.parent:
                raise SnakemakeEnded(
                    f"{self.label}: Snakemake has ended without this training, which is saved up "
                    f"to step {state.global_step}. To go on: `make unlock`, or `python -m "
                    "ablation.workflow.living` without a Makefile, then the same command again"
                )

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self.stops.reason and state.is_world_process_zero:
            print(f"{self.label}: {self.stops.reason} at step {state.global_step}", file=sys.stderr)
