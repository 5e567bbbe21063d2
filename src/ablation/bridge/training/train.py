"""Trains one translator and reports its best and its last weights."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from ablation.bridge.model.forwards import MIB, free_memory
from ablation.bridge.model.pair import FrozenModel
from ablation.bridge.model.splits import Split
from ablation.bridge.model.translator import new_translator
from ablation.bridge.training.early_stopping import DevStops
from ablation.bridge.training.trainer import BridgeTrainer, best_file, best_step
from ablation.config.bridge_blocks import Recipe
from ablation.config.study import ComputeSettings
from ablation.training.callbacks import Watch
from ablation.training.checkpoints import newest_checkpoint, resumed_steps
from ablation.training.early_stopping import MAX_STEPS
from ablation.training.resumable_trainer import past_of, train_on
from ablation.training.trainer_arguments import training_arguments


class Trained(NamedTuple):
    """A trained translator: its best and last weights, its summary, its curve, its run record."""

    best: dict[str, Tensor]
    last: dict[str, Tensor]
    summary: dict[str, Any]
    curve: list[dict]
    record: dict[str, Any]


def train_cell(
    target: FrozenModel,
    splits: Mapping[str, Split],
    recipe: Recipe,
    k: int,
    seed: int,
    hardware: ComputeSettings,
    label: str,
    home: str | Path,
) -> Trained:
    """Train one translator, from its newest checkpoint in `home` if there is one.

    `splits` has `train` and `dev`. The seed decides the weights and the order of the questions. If
    memory runs out, each micro-batch is computed in twice as many forwards of the target, from the
    newest checkpoint on. The loss stays the same, and so does the micro-batch within which InfoNCE
    contrasts. Raises FloatingPointError if loss or gradient was not finite before the first dev
    evaluation, and torch.OutOfMemoryError if single questions do not fit.
    """
    parts = 1
    while True:
        try:
            return _train_in_parts(
                target, splits, recipe, k, seed, hardware, label, Path(home), parts
            )
        except torch.OutOfMemoryError:
            if parts >= recipe.micro_batch_examples:
                raise
        parts *= 2
        free_memory()
        message = f"{label}: out of memory: continuing with {parts} forwards a micro-batch"
        print(message, file=sys.stderr)


def _train_in_parts(
    target: FrozenModel,
    splits: Mapping[str, Split],
    recipe: Recipe,
    k: int,
    seed: int,
    hardware: ComputeSettings,
    label: str,
    home: Path,
    parts: int,
) -> Trained:
    started = time.perf_counter()
    home.mkdir(parents=True, exist_ok=True)
    source_width = splits["train"].activations[0].shape[-1]
    translator = new_translator(recipe, k, source_width, target.model, seed)
    target.model.requires_grad_(False)
    stops, newest = DevStops.of(recipe), newest_checkpoint(home)
    past = past_of(newest, stops)
    resumed = resumed_steps(home, at=past.global_step if newest else None)
    trainer = BridgeTrainer(
        model=translator,
        args=training_arguments(recipe, seed, hardware, home, recipe.micro_batch_examples),
        train_dataset=list(range(len(splits["train"].records))),
        eval_dataset=[0],  # `BridgeTrainer.losses` evaluates `dev`
        recipe=recipe,
        target=target,
        split=splits["train"],
        dev=splits["dev"],
        parts=parts,
        stops=stops,
        callbacks=[Watch(stops, label, recipe.max_steps, past.global_step)],
    )
    if cuda := torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seen = train_on(trainer, newest, past, label)
    history = [entry for entry in trainer.state.log_history if entry["step"] <= seen.global_step]
    best = best_step(history)
    if best is None:
        raise FloatingPointError(
            f"{label}: loss or gradient was not finite after step {seen.global_step}, before the "
            "first dev evaluation. Lower learning_rate or eval_steps."
        )
    evaluations = {entry["step"]: entry for entry in history if "eval_loss" in entry}
    summary = {
        "steps": seen.global_step,
        "stop_reason": stops.reason or MAX_STEPS,
        "best_step": best,
        "dev_peak": evaluations[best]["accuracy"],
        "dev_final": evaluations[max(evaluations)]["accuracy"],
        "parameters": sum(p.numel() for p in translator.parameters()),
    }
    record = {
        "resumes": resumed,
        "forwards": parts,
        "seconds": round(time.perf_counter() - started, 2),
        "seconds_a_step": trainer.clock.median(),
        "peak_mem_mb": round(torch.cuda.max_memory_allocated() / MIB) if cuda else None,
    }
    if trainer.clock.seconds:
        memory = f", peak {record['peak_mem_mb']} MiB" if cuda else ""
        message = f"{label}: {trainer.clock.median():.3f} s a step{memory}"
        print(message, file=sys.stderr, flush=True)
    return Trained(
        best=load_file(best_file(home, best)),
        last={n: t.detach().cpu().clone() for n, t in translator.state_dict().items()},
        summary=summary,
        curve=_curve(history),
        record=record,
    )


def _curve(history: list[dict]) -> list[dict]:
    """The logged losses and dev evaluations, without the Trainer's own statistics."""
    entries = [{n: v for n, v in e.items() if not n.startswith("train_")} for e in history]
    return [entry for entry in entries if "loss" in entry or "eval_loss" in entry]
