"""Full-weight finetuning under a chosen mask: the Hugging Face Trainer with our rows and our loss.

The loss counts response tokens only and is averaged over all response tokens of the optimizer
step, whatever the micro-batches and rows that they were packed into. A training that was killed
goes on from its newest whole state and ends with the bits of one that was not.
"""

from __future__ import annotations

import gc
import math
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
)

from ablation.alpaca import alpaca_prompt, read_records
from ablation.arguments import own_optimizer, training_arguments
from ablation.head import summed_cross_entropy
from ablation.masks import LeakAudit, leak_audit, wants_fixed_rows
from ablation.models import last_states, target_logits
from ablation.packing import IGNORED_LABEL, Example, Rows, forwards
from ablation.precision import MasterWeights, StochasticAdafactor
from ablation.progress import Progress
from ablation.provenance import sha256_file
from ablation.states import newest_state, resumes, seal
from ablation.stops import MAX_STEPS, Stops

PROBE_EXAMPLES = 64  # samples on which both probe losses are taken
WEIGHTS, TRAINER_STATE = "model.safetensors", "trainer_state.json"  # names that the Trainer knows


@dataclass(frozen=True)
class Examples:
    """Tokenized finetuning data: what is trained on, what is held out, what was dropped."""

    train: list[Example]
    heldout: list[Example]
    dropped: int
    fingerprint: str  # sha256 of the file they came from


class Finetuned(NamedTuple):
    """A finetuned model, with summary.json and curve.jsonl as docs/records.md has them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    summary: dict
    curve: list[dict]
    record: dict  # what happened, for run.json: resumes, micro-batch, tokens a second


def tokenize(record: Mapping, tokenizer, max_seq_len: int) -> Example | None:
    """One Alpaca record as prompt and response ids (EOS appended and supervised).

    Prompt and response are tokenized apart. The prompt starts with the tokenizer's BOS where it
    has one. Cut at `max_seq_len` tokens; None when no response token is left to learn.
    """
    prompt = tokenizer(alpaca_prompt(record), add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None:
        prompt = [tokenizer.bos_token_id, *prompt]
    response = tokenizer(" " + record["output"], add_special_tokens=False)["input_ids"]
    response = [*response, tokenizer.eos_token_id][: max(0, max_seq_len - len(prompt))]
    return Example(prompt[:max_seq_len], [response]) if response else None


def read_examples(
    file: str | Path, tokenizer, max_seq_len: int, heldout_fraction: float, seed: int
) -> Examples:
    """Tokenize a JSON-lines file of Alpaca records and hold out a fraction of it by seed."""
    records = read_records(file)
    tokenized = [tokenize(record, tokenizer, max_seq_len) for record in records]
    examples = [example for example in tokenized if example is not None]
    random.Random(f"heldout {seed}").shuffle(examples)
    held = max(1, round(heldout_fraction * len(examples)))
    if len(examples) <= held:
        raise ValueError(
            f"{file}: {len(records)} records leave {len(examples)} examples after tokenization at "
            f"max_seq_len {max_seq_len}; more than {held} are needed to hold some out"
        )
    dropped = len(records) - len(examples)
    return Examples(examples[held:], examples[:held], dropped, sha256_file(file))


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
    """Mean loss (nats a response token) of `examples` under `mask`."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(examples), batch):
        fixed = wants_fixed_rows(model)
        for rows in forwards(examples[start : start + batch], capacity, fixed, widths=1):
            loss, n = summed_loss(model, rows.to(model.device), mask)
            total, count = total + loss.item(), count + n
    model.train(was_training)
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

    def collate(self, batch: list[Example]) -> dict:
        """A micro-batch: what each of its forwards holds, and what the Trainer counts it by."""
        parts = forwards(batch, self.row_tokens, wants_fixed_rows(self.model))
        labels = torch.cat([rows.labels.flatten() for rows in parts])
        tokens = sum(int((rows.doc >= 0).sum()) for rows in parts)
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
        own = self._own_optimizer()
        return (
            own.clip_grad_norm_(self.args.max_grad_norm) if own else super()._clip_grad_norm(model)
        )

    def _own_optimizer(self) -> MasterWeights | StochasticAdafactor | None:
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # within accelerate's
        return optimizer if isinstance(optimizer, MasterWeights | StochasticAdafactor) else None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, count = summed_loss(model, _rows(inputs), self.recipe["train_mask"])
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
        save_model(self.model, str(Path(output_dir) / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        load_model(self.model, Path(resume_from_checkpoint) / WEIGHTS)

    def evaluate(self, *args, **kwargs):
        metrics = self.losses()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


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
        self.progress.update(state.global_step, self.note)

    def on_save(self, args, state, control, model=None, **kwargs):
        # a state that is not finite is nothing to resume from
        if self.stops.reason != "non_finite" and all(
            p.isfinite().all() for p in model.parameters()
        ):
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, args, state, control, **kwargs):
        if self.stops.reason:
            print(f"{self.label}: {self.stops.reason} at step {state.global_step}", file=sys.stderr)


def finetune(
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    data: str | Path,
    recipe: Mapping,
    seed: int,
    hardware: Mapping,
    label: str,
    state: str | Path,
) -> Finetuned:
    """Train what `load` gives, within the memory there is, resuming from `state` if it can.

    `seed` sets the order of the data and which of it is held out, nothing else. Out of memory
    halves the rows, then the micro-batch, and goes on from the newest state: the step stays the
    same.
    """
    micro_batch, shortest = recipe["micro_batch_examples"], recipe["max_seq_len"]
    row_tokens = max(recipe["row_tokens"] or 0, shortest)
    while True:
        size = (row_tokens, micro_batch)
        try:
            return _finetune(*load(), data, recipe, seed, hardware, label, Path(state), *size)
        except torch.OutOfMemoryError:
            if size == (shortest, 1):
                raise
        if row_tokens > shortest:
            row_tokens = max(shortest, row_tokens // 2)
        else:
            micro_batch = _smaller(micro_batch, recipe["batch_examples"])
        size = f"{row_tokens} tokens a row, {micro_batch} examples at a time"
        print(f"{label}: out of memory, now {size}", file=sys.stderr)
        gc.collect()  # a Trainer refers to itself in circles, and would keep model and optimizer
        torch.cuda.empty_cache()


def _smaller(micro_batch: int, batch: int) -> int:
    """The largest divisor of `batch` that is at most half of `micro_batch`."""
    return max(d for d in range(1, max(2, micro_batch // 2 + 1)) if batch % d == 0)


def _finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: str | Path,
    recipe: Mapping,
    seed: int,
    hardware: Mapping,
    label: str,
    state: Path,
    row_tokens: int,
    micro_batch: int,
) -> Finetuned:
    started = time.perf_counter()
    torch.manual_seed(seed)
    examples = read_examples(
        data, tokenizer, recipe["max_seq_len"], recipe["heldout_fraction"], seed
    )
    audit = leak_audit(model, recipe["train_mask"])
    stops, newest = Stops(recipe["stops"]), newest_state(state)
    past = TrainerState.load_from_json(newest / TRAINER_STATE) if newest else TrainerState()
    resumed = resumes(state, at=past.global_step if newest else None)
    for entry in past.log_history:
        stops.saw(entry)

    trainer = MaskedTrainer(
        model=model,
        args=training_arguments(recipe, seed, hardware, state, micro_batch),
        train_dataset=examples.train,
        eval_dataset=examples.heldout,
        optimizer_cls_and_kwargs=own_optimizer(recipe),
        recipe=recipe,
        row_tokens=row_tokens,
        probe=examples.train[:PROBE_EXAMPLES],
        stops=stops,
        callbacks=[Watch(stops, label, recipe["max_steps"], past.global_step)],
    )
    over = stops.reason is not None or past.global_step >= recipe["max_steps"]
    if over:
        trainer.state = past  # killed after its last step: nothing is left to train
    else:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    seen = trainer.state  # what the weights have seen
    if stops.reason == "non_finite":
        newest = newest_state(state)
        if newest is None:
            raise FloatingPointError(
                f"{label}: loss or gradient was not finite by step {seen.global_step}, before a "
                f"state was saved. Lower learning_rate or save_steps."
            )
        seen = TrainerState.load_from_json(newest / TRAINER_STATE)
    if over or stops.reason == "non_finite":
        load_model(model, newest / WEIGHTS)
    seconds = time.perf_counter() - started
    record = {
        "resumes": resumed,
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


def _rows(inputs: Mapping[str, torch.Tensor]) -> Rows:
    return Rows(**{f.name: inputs[f.name] for f in fields(Rows)})
