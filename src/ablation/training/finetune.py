"""Finetuning under a mask, of all weights or of an adapter, on what memory and GPUs there are.

A training that was killed is resumed from its newest complete checkpoint, and ends with the same
bits as one that was not killed.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState

from ablation.config.study import ComputeSettings, Recipe
from ablation.interventions.adapters import TrainedAdapter, add_adapter, merge, require_kept
from ablation.interventions.protocol import Intervention
from ablation.model.checks.agreement import require_agreement
from ablation.model.leak_audit import LeakAudit, leak_audit
from ablation.model.masks import uses_fixed_rows
from ablation.model.packing import token_count
from ablation.model.positions import switch_position, widest_row
from ablation.parallel import collectives, launch
from ablation.training import fsdp
from ablation.training.callbacks import Watch
from ablation.training.checkpoints import newest_checkpoint, resumed_steps
from ablation.training.early_stopping import MAX_STEPS, Stops
from ablation.training.examples import Examples, read_examples
from ablation.training.resumable_trainer import past_of, train_on, trainer_state
from ablation.training.trainer import MaskedTrainer
from ablation.training.trainer_arguments import (
    custom_optimizer,
    sharded_optimizer,
    training_arguments,
)
from ablation.vocabulary.formats import FORMATS

PROBE_EXAMPLES = 64  # examples of the probe, whose loss is measured under two masks
TRAINED = "trained.pt"  # all weights, written by the ranks that trained them
CURVE_COLUMNS = (
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "eval_loss",
    "probe_loss_train_mask",
    "probe_loss_causal",
)
LoadModel = Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]


class Finetuned(NamedTuple):
    """A finetuned model with the records of its training.

    summary, curve: the contents of summary.json and curve.jsonl, see docs/records.md.
    record: facts for run.json: resumes, ranks, micro-batch, row capacity, tokens a second.
    adapter: what was merged into the weights of the model, if the recipe has an adapter.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    summary: dict[str, Any]
    curve: list[dict[str, Any]]
    record: dict[str, Any]
    adapter: TrainedAdapter | None = None


@dataclass(frozen=True)
class Attempt:
    """One attempt at a training; see `finetune`. Several ranks receive it by pickling.

    newest: the checkpoint to resume from, or None.
    row_tokens, micro_batch: capacity of a row and examples of a forward, in this attempt.
    """

    load: LoadModel
    data: str | Path
    recipe: Recipe
    seed: int
    hardware: ComputeSettings
    label: str
    home: Path
    newest: Path | None
    row_tokens: int
    micro_batch: int
    intervention: Intervention | None = None


def finetune(
    load: LoadModel,
    data: str | Path,
    recipe: Recipe,
    seed: int,
    hardware: ComputeSettings,
    label: str,
    home: str | Path,
    processes: int | None = None,
    intervention: Intervention | None = None,
    nodes: int = 1,
) -> Finetuned:
    """Finetune the model that `load` returns, resuming from a checkpoint if there is one.

    data: a JSON-lines file of Alpaca records.
    seed: decides the order of the data, which examples are held out, and the first values of an
        adapter, nothing else.
    label: the beginning of progress lines.
    home: the folder of the training's checkpoints.
    processes: how many ranks share weights and examples; by default one on each GPU. Each rank
        calls `load`, which must then be picklable.
    intervention: what `load` has taken away from the model beside the recipe's mask. It is seen in
        force before the training and after it, and brought back into force after every step.
    nodes: on how many machines the ranks are, as many on each; all of them must see `home`, and
        what `load` reads.

    If memory runs out, the capacity of rows is halved, then the micro-batch, and the training goes
    on from the newest checkpoint. The optimizer step stays the same; it is also the same with
    several processes. Raises RuntimeError if too few GPUs are visible, ValueError if the
    checkpoints are of another number of processes, and NotInForce.
    """
    processes = max(1, hardware.gpu) if processes is None else processes
    backend = torch.mps if hardware.torch_device == "mps" else torch.cuda
    if hardware.gpu > nodes * backend.device_count():
        where = f" on {nodes} machines (hardware.nodes)" if nodes > 1 else ""
        raise RuntimeError(
            f"{label}: {backend.device_count()} GPUs are visible, but hardware.gpu is "
            f"{hardware.gpu}{where}: lower it, or train on a machine with as many GPUs"
        )
    home = Path(home)
    home.mkdir(parents=True, exist_ok=True)
    shortest = recipe.max_seq_len
    row_tokens, micro_batch = max(recipe.row_tokens or 0, shortest), recipe.micro_batch_examples
    attempt = Attempt(
        *(load, data, recipe, seed, hardware, label, home, None, row_tokens, micro_batch),
        intervention=intervention,
    )
    while True:
        newest = newest_checkpoint(home)
        attempt = replace(attempt, newest=newest)
        record = {"resumes": _resumed_steps(home, newest, processes), "ranks": processes}
        try:
            tuned = _finetune(attempt) if processes == 1 else _on_ranks(attempt, processes, nodes)
            return tuned._replace(record=record | tuned.record)
        except torch.OutOfMemoryError:
            if (attempt.row_tokens, attempt.micro_batch) == (shortest, 1):
                raise
        if attempt.row_tokens > shortest:
            attempt = replace(attempt, row_tokens=max(shortest, attempt.row_tokens // 2))
        else:
            smaller = _smaller(attempt.micro_batch, recipe.batch_examples // processes)
            attempt = replace(attempt, micro_batch=smaller)
        size = f"{attempt.row_tokens} tokens a row, {attempt.micro_batch} examples at a time"
        print(f"{label}: out of memory, now {size}", file=sys.stderr)
        gc.collect()  # reference cycles of the Trainer would keep model and optimizer in memory
        torch.cuda.empty_cache()


def _resumed_steps(home: Path, newest: Path | None, processes: int) -> list[int]:
    """The steps at which the training in `home` was resumed, including the coming attempt."""
    if newest is None:
        return resumed_steps(home)
    saved = len(list(newest.glob("rng_state_*.pth"))) or 1  # the Trainer writes one for each rank
    if (saved > 1) != (processes > 1):  # any number of ranks can read shards, but one reads a whole
        raise ValueError(
            f"{newest} was saved by {saved} process(es), and {processes} cannot go on from it: "
            f"train on {'several' if saved > 1 else 'one'} of them (hardware.gpu), or remove "
            f"{home} to begin again"
        )
    return resumed_steps(home, at=trainer_state(newest).global_step)


def _on_ranks(attempt: Attempt, processes: int, nodes: int) -> Finetuned:
    """`_finetune` in several processes, which share weights and examples."""
    file, gpu = attempt.home / TRAINED, attempt.hardware.gpu > 0
    records = launch.run(
        *(_as_rank, file, attempt), ranks=processes, gpu=gpu, nodes=nodes, folder=attempt.home
    )
    return Finetuned(*_with_weights(attempt.load, file), *records)


def _as_rank(file: Path, attempt: Attempt) -> tuple[dict, list[dict], dict]:
    """`_finetune` as one of several ranks, which write the weights to `file`."""
    tuned = _finetune(attempt)
    fsdp.save_whole(file, tuned.model)
    return tuned.summary, tuned.curve, tuned.record


def _with_weights(load: LoadModel, file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of `load` with the weights of `file` rounded to its dtype; deletes the file."""
    model, tokenizer = load()
    model.load_state_dict(torch.load(file, map_location="cpu", mmap=True, weights_only=True))
    file.unlink()
    return model, tokenizer


def _smaller(micro_batch: int, batch: int) -> int:
    """The largest divisor of `batch` that is at most half of `micro_batch`."""
    return max(d for d in range(1, max(2, micro_batch // 2 + 1)) if batch % d == 0)


def _finetune(attempt: Attempt) -> Finetuned:
    started = time.perf_counter()
    recipe, seed = attempt.recipe, attempt.seed
    model, tokenizer = attempt.load()
    under = attempt.intervention
    evidence = {} if under is None else under.audit(model)
    row_tokens = _possible_row(model, recipe.max_seq_len, attempt.row_tokens)
    agreement = require_agreement(model)
    torch.manual_seed(seed)
    adapter = None
    if recipe.adapter is not None:
        if under is not None:
            require_kept(model, recipe.adapter, under)
        adapter = add_adapter(model, recipe.adapter)
    examples = read_examples(
        attempt.data,
        tokenizer,
        recipe.max_seq_len,
        recipe.heldout_fraction,
        seed,
        recipe.max_examples,
        FORMATS[recipe.format],
    )
    if recipe.row_tokens is None and not uses_fixed_rows(model):
        longest = max(map(token_count, [*examples.train, *examples.heldout]))
        row_tokens = min(row_tokens, longest)  # attention is quadratic in a row
    audit = leak_audit(model, recipe.train_mask, row_tokens)
    stops = Stops(recipe.stops.no_learning, recipe.stops.plateau, recipe.stops.leak)
    past = past_of(attempt.newest, stops)
    ranks = collectives.ranks()
    optimizer = sharded_optimizer if ranks > 1 else custom_optimizer
    trainer = MaskedTrainer(
        model=model,
        args=training_arguments(
            recipe, seed, attempt.hardware, attempt.home, attempt.micro_batch, ranks
        ),
        train_dataset=examples.train,
        eval_dataset=examples.heldout,
        optimizer_cls_and_kwargs=optimizer(recipe),
        recipe=recipe,
        row_tokens=row_tokens,
        probe=examples.train[:PROBE_EXAMPLES],
        stops=stops,
        constrain=under.constrain if under and not adapter else None,  # an adapter changes nothing
        masters=under is not None and under.masters,
        keep_gathered=attempt.hardware.keep_gathered,
        callbacks=[Watch(stops, attempt.label, recipe.max_steps, past.global_step)],
    )
    seen = train_on(trainer, attempt.newest, past, attempt.label)
    seconds = time.perf_counter() - started
    tokens = trainer.state.num_input_tokens_seen - past.num_input_tokens_seen
    record = {
        "micro_batch_examples": attempt.micro_batch,
        "row_tokens": row_tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "stock_agreement": agreement.as_dict(),
    }
    trained = None
    if recipe.adapter is not None:
        model, trained = merge(adapter, recipe.adapter, lambda: attempt.load()[0])
    summary = _summary(trainer, seen, examples, audit, seed)
    if under is not None:
        summary |= {"intervention": {"name": under.name, **under.as_dict()}}
        after = under.audit(model) if ranks == 1 else {}  # a rank has only a part of the weights
        summary |= {"intervention_audit": {"before": evidence, "after": after}}
    return Finetuned(model, tokenizer, summary, _curve(trainer.state.log_history), record, trained)


def _possible_row(model: PreTrainedModel, longest: int, row_tokens: int) -> int:
    """The capacity of rows, at most what the model can compute; `longest` is that of an example.

    Raises ValueError if an example can be longer than a row, or if examples of both kinds of
    rotary factors that a longrope model has would be in one row.
    """
    widest, switch = widest_row(model), switch_position(model.config)
    for limit in (widest, switch):
        if limit is not None and longest > limit:
            why = "computes no longer row" if limit == widest else "has other positions beyond"
            raise ValueError(
                f"max_seq_len {longest} found, but {type(model).__name__} {why} "
                f"({limit} tokens): set it to {limit} at most"
            )
    return min(row_tokens, widest or row_tokens)


def _summary(
    trainer: MaskedTrainer, seen: TrainerState, examples: Examples, audit: LeakAudit, seed: int
) -> dict[str, Any]:
    """The content of summary.json; `seen` is the training that the weights have seen."""
    history = trainer.state.log_history
    losses = [e["loss"] for e in history if "loss" in e and e["step"] <= seen.global_step]
    return {
        "recipe": trainer.recipe.model_dump(),
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
        "families": examples.families,
        "train_loss": sum(losses) / len(losses) if losses else None,
        "final_train_loss": losses[-1] if losses else None,
        **trainer.losses(),
        "train_leaks": audit.leaks,
        "leak_audit": audit.as_dict(),
    }


def _curve(history: list[dict[str, float]]) -> list[dict[str, Any]]:
    """The content of curve.jsonl: the logged losses, null where one is not finite."""
    curve = [
        {k: log[k] if math.isfinite(log[k]) else None for k in CURVE_COLUMNS if k in log}
        for log in history  # JSON has no NaN
    ]
    return [point for point in curve if "loss" in point or "eval_loss" in point]
