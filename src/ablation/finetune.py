"""Full-weight finetuning under a chosen mask, within the memory and on the GPUs there are.

A training that was killed goes on from its newest whole state and ends with the bits of one that
was not.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerState,
)

from ablation import ranks, sharding
from ablation.arguments import own_optimizer, sharded_optimizer, training_arguments
from ablation.examples import Examples, read_examples
from ablation.masks import LeakAudit, leak_audit
from ablation.resume import TRAINER_STATE, past_of, train_on
from ablation.states import newest_state, resumes
from ablation.stops import MAX_STEPS, Stops
from ablation.trainer import MaskedTrainer
from ablation.watch import Watch

PROBE_EXAMPLES = 64  # samples on which both probe losses are taken
TRAINED = "trained.pt"  # all weights, from the ranks that trained them


class Finetuned(NamedTuple):
    """A finetuned model, with summary.json and curve.jsonl as docs/records.md has them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    summary: dict
    curve: list[dict]
    record: dict  # what happened, for run.json: resumes, micro-batch, tokens a second


def finetune(
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    data: str | Path,
    recipe: Mapping,
    seed: int,
    hardware: Mapping,
    label: str,
    state: str | Path,
    processes: int | None = None,
) -> Finetuned:
    """Train what `load` gives, within the memory there is, resuming from `state` if it can.

    `seed` sets the order of the data and which of it is held out, nothing else. Out of memory
    halves the rows, then the micro-batch, and goes on from the newest state: the step stays the
    same. It does too with several `processes` (default: one a GPU), which share out weights and
    examples; `load` is then called in each, and must be picklable. Raises RuntimeError when there
    are fewer GPUs, ValueError when `state` was saved by another number of processes.
    """
    processes = max(1, hardware["gpu"]) if processes is None else processes
    if hardware["gpu"] > torch.cuda.device_count():
        raise RuntimeError(
            f"{label}: {torch.cuda.device_count()} GPUs are visible, but hardware.gpu is "
            f"{hardware['gpu']}: lower it, or train where there are as many"
        )
    state = Path(state)
    state.mkdir(parents=True, exist_ok=True)
    micro_batch, shortest = recipe["micro_batch_examples"], recipe["max_seq_len"]
    row_tokens = max(recipe["row_tokens"] or 0, shortest)
    while True:
        newest = newest_state(state)
        happened = {"resumes": _resumes(state, newest, processes), "ranks": processes}
        job = (load, data, recipe, seed, hardware, label, state, newest, row_tokens, micro_batch)
        try:
            if processes == 1:
                tuned = _finetune(*job)
            else:
                file, gpu = state / TRAINED, hardware["gpu"] > 0
                told = ranks.run(_as_rank, file, *job, ranks=processes, gpu=gpu)
                tuned = Finetuned(*_with_weights(load, file), *told)
            return tuned._replace(record=happened | tuned.record)
        except torch.OutOfMemoryError:
            if (row_tokens, micro_batch) == (shortest, 1):
                raise
        if row_tokens > shortest:
            row_tokens = max(shortest, row_tokens // 2)
        else:
            micro_batch = _smaller(micro_batch, recipe["batch_examples"] // processes)
        size = f"{row_tokens} tokens a row, {micro_batch} examples at a time"
        print(f"{label}: out of memory, now {size}", file=sys.stderr)
        gc.collect()  # a Trainer refers to itself in circles, and would keep model and optimizer
        torch.cuda.empty_cache()


def _resumes(state: Path, newest: Path | None, processes: int) -> list[int]:
    """The steps at which the training in `state` was resumed, the attempt about to start too."""
    if newest is None:
        return resumes(state)
    saved = len(list(newest.glob("rng_state_*.pth"))) or 1  # one a rank, as the Trainer names them
    if saved != processes:
        raise ValueError(
            f"{newest} was saved by {saved} process(es), and {processes} cannot go on from it: "
            f"train on as many GPUs (hardware.gpu), or remove {state} to begin again"
        )
    return resumes(state, at=TrainerState.load_from_json(newest / TRAINER_STATE).global_step)


def _as_rank(file: Path, *job) -> tuple[dict, list[dict], dict]:
    """`_finetune` as one of several ranks, which leave the weights in `file`."""
    tuned = _finetune(*job)
    sharding.save_whole(file, tuned.model)
    return tuned.summary, tuned.curve, tuned.record


def _with_weights(load: Callable, file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What `load` gives, with the weights of `file` rounded to its dtype."""
    model, tokenizer = load()
    model.load_state_dict(torch.load(file, map_location="cpu", mmap=True, weights_only=True))
    file.unlink()
    return model, tokenizer


def _smaller(micro_batch: int, batch: int) -> int:
    """The largest divisor of `batch` that is at most half of `micro_batch`."""
    return max(d for d in range(1, max(2, micro_batch // 2 + 1)) if batch % d == 0)


def _finetune(
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    data: str | Path,
    recipe: Mapping,
    seed: int,
    hardware: Mapping,
    label: str,
    state: Path,
    newest: Path | None,
    row_tokens: int,
    micro_batch: int,
) -> Finetuned:
    started = time.perf_counter()
    model, tokenizer = load()
    torch.manual_seed(seed)
    examples = read_examples(
        data, tokenizer, recipe["max_seq_len"], recipe["heldout_fraction"], seed
    )
    audit = leak_audit(model, recipe["train_mask"])
    stops = Stops(recipe["stops"])
    past = past_of(newest, stops)
    optimizer = sharded_optimizer if sharding.ranks() > 1 else own_optimizer
    trainer = MaskedTrainer(
        model=model,
        args=training_arguments(recipe, seed, hardware, state, micro_batch, sharding.ranks()),
        train_dataset=examples.train,
        eval_dataset=examples.heldout,
        optimizer_cls_and_kwargs=optimizer(recipe),
        recipe=recipe,
        row_tokens=row_tokens,
        probe=examples.train[:PROBE_EXAMPLES],
        stops=stops,
        callbacks=[Watch(stops, label, recipe["max_steps"], past.global_step)],
    )
    seen = train_on(trainer, newest, past, label)
    seconds = time.perf_counter() - started
    record = {
        "micro_batch_examples": micro_batch,
        "row_tokens": row_tokens,
        "tokens_per_second": round(
            (trainer.state.num_input_tokens_seen - past.num_input_tokens_seen) / seconds, 1
        ),
    }
    return Finetuned(model, tokenizer, *_report(trainer, seen, examples, audit, seed), record)


def _report(
    trainer: MaskedTrainer, seen: TrainerState, examples: Examples, audit: LeakAudit, seed: int
) -> tuple[dict, list[dict]]:
    """summary.json and curve.jsonl of docs/records.md; `seen` is what the weights have seen."""
    history, recipe = trainer.state.log_history, trainer.recipe
    losses = [e["loss"] for e in history if "loss" in e and e["step"] <= seen.global_step]
    summary = {
        "recipe": dict(recipe),
        "seed": seed,
        "steps": seen.global_step,
        "stop_reason": trainer.stops.reason or MAX_STEPS,
        "leak_alarms": trainer.stops.leak_alarms,
        "epochs": round(seen.epoch or 0, 4),
        "tokens": seen.num_input_tokens_seen,
        "train_examples": len(examples.train),
        "heldout_examples": len(examples.heldout),
        "dropped_examples": examples.dropped,
        "data_fingerprint": examples.fingerprint,
        "train_loss": sum(losses) / len(losses) if losses else None,
        "final_train_loss": losses[-1] if losses else None,
        **trainer.losses(),
        "train_leaks": audit.leaks,
        "leak_audit": audit.as_dict(),
    }
    kept = ("step", "epoch", "loss", "learning_rate", "grad_norm", "eval_loss")
    kept += ("probe_loss_train_mask", "probe_loss_causal")
    curve = [
        {k: log[k] if math.isfinite(log[k]) else None for k in kept if k in log}  # JSON has no NaN
        for log in history
    ]
    return summary, [point for point in curve if "loss" in point or "eval_loss" in point]
