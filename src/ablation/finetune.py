"""Full-weight finetuning under a chosen mask: the Hugging Face Trainer with our rows and our loss.

The loss counts response tokens only and is averaged over all response tokens of the optimizer
step, whatever the micro-batches and rows that they were packed into. A training that was killed
goes on from its newest whole state and ends with the bits of one that was not.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerState,
)

from ablation import ranks, sharding
from ablation.arguments import own_optimizer, sharded_optimizer, training_arguments
from ablation.examples import Examples, read_examples
from ablation.head import summed_cross_entropy
from ablation.masks import LeakAudit, leak_audit, wants_fixed_rows
from ablation.models import last_states, target_logits
from ablation.packing import IGNORED_LABEL, Example, Rows, token_count
from ablation.precision import MasterWeights, StochasticAdafactor
from ablation.sharding import SHARDS
from ablation.states import complete_states, newest_state, resumes
from ablation.stops import MAX_STEPS, Stops
from ablation.watch import Watch

PROBE_EXAMPLES = 64  # samples on which both probe losses are taken
# names that the Trainer knows
WEIGHTS, SCHEDULER, TRAINER_STATE = "model.safetensors", "scheduler.pt", "trainer_state.json"
TRAINED = "trained.pt"  # all weights, from the ranks that trained them


class Finetuned(NamedTuple):
    """A finetuned model, with summary.json and curve.jsonl as docs/records.md has them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    summary: dict
    curve: list[dict]
    record: dict  # what happened, for run.json: resumes, micro-batch, tokens a second


def summed_loss(model: PreTrainedModel, rows: Rows, mask: str) -> tuple[torch.Tensor, int]:
    """The summed negative log-likelihood (nats) of all targets in `rows`, and their number."""
    if model.device.type == "cuda":
        states, head = last_states(model, rows, mask)
        at = rows.target_row * states.shape[1] + rows.target_position
        states = states.flatten(0, 1).index_select(0, at)
        return summed_cross_entropy(head, states, rows.target_id), len(rows.target_id)
    logits = target_logits(model, rows, mask).float()
    return cross_entropy(logits, rows.target_id, reduction="sum"), len(rows.target_id)


@torch.no_grad()
def mean_loss(
    model: PreTrainedModel, examples: Sequence[Example], mask: str, capacity: int, batch: int
) -> float:
    """Mean loss (nats a response token) of `examples` under `mask`, `batch` at a time."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(examples), batch):
        part, fixed = examples[start : start + batch], wants_fixed_rows(model)
        for rows in sharding.own_forwards(part, capacity, fixed, widths=1):
            loss, n = sharding.whole(model, summed_loss, rows.to(model.device), mask)
            total, count = total + loss.item(), count + n
    model.train(was_training)
    total, count = sharding.summed([total, count], model.device)
    return total / count


class MaskedTrainer(Trainer):
    """A Trainer whose batches are packed rows and whose loss and optimizer are ours."""

    def __init__(
        self,
        *args,
        recipe: Mapping,
        row_tokens: int,
        probe: Sequence[Example],
        stops: Stops,
        **kwargs,
    ):
        super().__init__(*args, **kwargs, data_collator=self.collate)
        self.recipe, self.row_tokens, self.probe, self.stops = recipe, row_tokens, probe, stops
        self.model_accepts_loss_kwargs = True  # the loss is divided by num_items_in_batch already
        self.remove_callback(PrinterCallback)  # our lines say the same, with the time left
        if self.args.world_size > 1:
            sharding.shard(self.model)
            # "by transformers" or by us: the model owns its placement and gradient reduction
            self.is_distributed_loading_by_transformers = True

    def get_train_dataloader(self):
        """Every rank reads every batch and takes its share in `collate`.

        Shared out by accelerate, the last batch of an epoch would be filled up with examples seen.
        """
        loader = super().get_train_dataloader()
        if self.args.world_size > 1:
            sampler = loader.batch_sampler
            sampler.num_processes, sampler.process_index, sampler.even_batches = 1, 0, False
        return loader

    def collate(self, batch: list[Example]) -> dict:
        """A micro-batch: what each of its forwards holds, and what the Trainer counts it by."""
        parts = sharding.own_forwards(batch, self.row_tokens, wants_fixed_rows(self.model))
        labels = torch.cat([rows.labels.flatten() for rows in parts])
        tokens = sum(map(token_count, batch))
        # a column more: the Trainer does not count the first
        labels = torch.nn.functional.pad(labels, (1, 0), value=IGNORED_LABEL)[None]
        return {"parts": [vars(rows) for rows in parts], "labels": labels, "tokens": tokens}

    def training_step(self, model, inputs, num_items_in_batch=None):
        own, loss = self._own_optimizer(), 0.0
        for part in inputs["parts"]:
            with own.gradients.aside() if own else nullcontext():
                loss += super().training_step(model, part, num_items_in_batch)
        return loss

    def floating_point_ops(self, inputs):
        return 0  # reported nowhere

    def _track_num_input_tokens(self, inputs):
        self.state.num_input_tokens_seen += inputs["tokens"]  # the Trainer would ask the GPU

    def create_optimizer(self, model=None):
        """The recipe's optimizer; the Trainer's own over float32 copies of bfloat16 weights."""
        if self.optimizer is None:
            super().create_optimizer(model)
            if own_optimizer(self.recipe) is None and any(
                p.dtype != torch.float32 for p in self.model.parameters()
            ):
                self.optimizer = MasterWeights(self.optimizer)
        return self.optimizer

    def _clip_grad_norm(self, model):
        """By an optimizer of ours where there is one: in float32, or without a pass of its own."""
        if own := self._own_optimizer():
            return own.clip_grad_norm_(self.args.max_grad_norm)
        norm = super()._clip_grad_norm(model)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _own_optimizer(self) -> MasterWeights | StochasticAdafactor | None:
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # within accelerate's
        return optimizer if isinstance(optimizer, MasterWeights | StochasticAdafactor) else None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        rows, mask = _rows(inputs), self.recipe["train_mask"]
        loss, count = sharding.whole(model, summed_loss, rows, mask)
        # gradients and logged losses are averaged over ranks, but the tokens are those of all
        loss = loss * self.args.world_size
        return loss / (count if num_items_in_batch is None else num_items_in_batch)

    def loss_of(self, examples: Sequence[Example], mask: str) -> float:
        """Mean loss (nats a response token) of `examples` under `mask`."""
        batch = self.args.per_device_train_batch_size
        return mean_loss(self.model, examples, mask, self.row_tokens, batch)

    def losses(self) -> dict[str, float]:
        """Held-out loss under the training mask; the probe's loss under it and under `causal`."""
        mask = self.recipe["train_mask"]
        return {
            "eval_loss": self.loss_of(self.eval_dataset[: self.recipe["eval_samples"]], mask),
            "probe_loss_train_mask": self.loss_of(self.probe, mask),
            "probe_loss_causal": self.loss_of(self.probe, "causal"),
        }

    def _save(self, output_dir=None, state_dict=None):
        """The weights of a resumable state, by their own names: no class need know how to save."""
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        if self.args.world_size == 1:
            save_model(self.model, str(Path(output_dir) / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self.args.world_size == 1:
            load_model(self.model, Path(resume_from_checkpoint) / WEIGHTS)
        else:
            sharding.load_weights(Path(resume_from_checkpoint) / SHARDS, self.model)

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.args.world_size > 1:
            sharding.save_shards(Path(output_dir) / SHARDS, self.model, self.optimizer.optimizer)
            if self.args.should_save:
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if self.args.world_size > 1 and checkpoint is not None:
            shards = Path(checkpoint) / SHARDS
            sharding.load_optimizer(shards, self.model, self.optimizer.optimizer)
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def evaluate(self, *args, **kwargs):
        metrics = self.losses()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


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


def past_of(newest: Path | None, stops: Stops) -> TrainerState:
    """What happened up to the state `newest`, which `stops` is told; None: nothing yet."""
    past = TrainerState.load_from_json(newest / TRAINER_STATE) if newest else TrainerState()
    for entry in past.log_history:
        stops.saw(entry)
    return past


def train_on(
    trainer: MaskedTrainer, newest: Path | None, past: TrainerState, label: str
) -> TrainerState:
    """Train from `newest` to the end or a stop; what the weights of `trainer.model` have seen then.

    Where loss or gradient was not finite those are the weights of the last whole state. Raises
    FloatingPointError when there is none.
    """
    stops, state = trainer.stops, Path(trainer.args.output_dir)
    over = stops.reason is not None or past.global_step >= trainer.recipe["max_steps"]
    if over:
        trainer.state = past  # killed after its last step: nothing is left to train
    else:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    seen = trainer.state
    if stops.reason == "non_finite":
        newest = next(reversed(complete_states(state)), None)
        if newest is None:
            raise FloatingPointError(
                f"{label}: loss or gradient was not finite by step {seen.global_step}, before a "
                f"state was saved. Lower learning_rate or save_steps."
            )
        seen = TrainerState.load_from_json(newest / TRAINER_STATE)
    if over or stops.reason == "non_finite":
        trainer._load_from_checkpoint(newest)
    return seen


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


def _rows(inputs: Mapping[str, torch.Tensor]) -> Rows:
    return Rows(**{f.name: inputs[f.name] for f in fields(Rows)})
