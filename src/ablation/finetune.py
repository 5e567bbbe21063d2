"""Full-weight finetuning under a chosen mask: the Hugging Face Trainer with our rows and our loss.

The loss counts response tokens only and is averaged over all response tokens of the optimizer
step, whatever the micro-batches and rows that they were packed into.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ablation.alpaca import alpaca_prompt
from ablation.masks import leak_audit
from ablation.models import target_logits
from ablation.packing import Example, Rows, pack
from ablation.progress import Progress
from ablation.provenance import read_json_lines

PROBE_EXAMPLES = 64  # samples on which both probe losses are taken


@dataclass(frozen=True)
class Examples:
    """Tokenized finetuning data: what is trained on, what is held out, what was dropped."""

    train: list[Example]
    heldout: list[Example]
    dropped: int


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
    records = read_json_lines(file)
    tokenized = [tokenize(record, tokenizer, max_seq_len) for record in records]
    examples = [example for example in tokenized if example is not None]
    random.Random(f"heldout {seed}").shuffle(examples)
    held = max(1, round(heldout_fraction * len(examples)))
    if len(examples) <= held:
        raise ValueError(
            f"{file}: {len(records)} records leave {len(examples)} examples after tokenization at "
            f"max_seq_len {max_seq_len}; more than {held} are needed to hold some out"
        )
    return Examples(examples[held:], examples[:held], len(records) - len(examples))


def summed_loss(model: PreTrainedModel, rows: Rows, mask: str) -> tuple[torch.Tensor, int]:
    """The summed negative log-likelihood (nats) of all targets in `rows`, and their number."""
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
        rows = pack(examples[start : start + batch], capacity).to(model.device)
        loss, n = summed_loss(model, rows, mask)
        total, count = total + loss.item(), count + n
    model.train(was_training)
    return total / count


class MaskedTrainer(Trainer):
    """A Trainer whose batches are packed rows and whose loss is ours."""

    def __init__(self, *args, recipe: Mapping, **kwargs):
        super().__init__(*args, **kwargs)
        self.recipe = recipe
        self.model_accepts_loss_kwargs = True  # the loss is divided by num_items_in_batch already

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, count = summed_loss(model, _rows(inputs), self.recipe["train_mask"])
        return loss / (count if num_items_in_batch is None else num_items_in_batch)

    def heldout_loss(self) -> float:
        """Mean loss on the held-out examples under the training mask, averaged over tokens."""
        return mean_loss(
            self.model,
            self.eval_dataset[: self.recipe["eval_samples"]],
            self.recipe["train_mask"],
            self.recipe["max_seq_len"],
            self.recipe["micro_batch_examples"],
        )

    def evaluate(self, *args, **kwargs):
        metrics = {"eval_loss": self.heldout_loss()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class Report(TrainerCallback):
    """Progress lines with the newest loss."""

    def __init__(self, label: str, total: int):
        self.progress, self.note = Progress(label, total), ""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.4f}"

    def on_step_end(self, args, state, control, **kwargs):
        self.progress.update(state.global_step, self.note)


def finetune(
    model: PreTrainedModel,
    tokenizer,
    data: str | Path,
    recipe: Mapping,
    seed: int,
    hardware: Mapping,
    label: str,
    scratch: str | Path,
) -> tuple[dict, list[dict]]:
    """Train `model` in place. Returns (summary, curve).

    `seed` sets the order of the data and which of it is held out, nothing else. The summary holds
    steps, epochs, tokens, losses (nats a response token) and the leak audit of the training mask;
    the curve one mapping per logged step.
    """
    torch.manual_seed(seed)
    examples = read_examples(
        data, tokenizer, recipe["max_seq_len"], recipe["heldout_fraction"], seed
    )
    audit = leak_audit(model, recipe["train_mask"])
    capacity, micro_batch = recipe["max_seq_len"], recipe["micro_batch_examples"]

    def collate(batch: list[Example]) -> dict[str, torch.Tensor]:
        rows = pack(batch, capacity)
        return vars(rows) | {"labels": rows.labels}

    trainer = MaskedTrainer(
        model=model,
        args=training_arguments(recipe, seed, hardware, scratch),
        train_dataset=examples.train,
        data_collator=collate,
        eval_dataset=examples.heldout,
        recipe=recipe,
        callbacks=[Report(label, recipe["max_steps"])],
    )
    trainer.remove_callback(PrinterCallback)  # our lines say the same, with the time left
    result = trainer.train()
    probe = examples.train[:PROBE_EXAMPLES]
    summary = {
        "recipe": dict(recipe),
        "seed": seed,
        "steps": trainer.state.global_step,
        "stop_reason": "max_steps",
        "epochs": round(trainer.state.epoch, 4),
        "train_examples": len(examples.train),
        "heldout_examples": len(examples.heldout),
        "dropped_examples": examples.dropped,
        "train_loss": result.training_loss,
        "eval_loss": trainer.heldout_loss(),
        "probe_loss_train_mask": mean_loss(
            model, probe, recipe["train_mask"], capacity, micro_batch
        ),
        "probe_loss_causal": mean_loss(model, probe, "causal", capacity, micro_batch),
        "train_leaks": audit.leaks,
        "leak_audit": audit.as_dict(),
    }
    kept = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")
    curve = [{k: log[k] for k in kept if k in log} for log in trainer.state.log_history]
    return summary, [point for point in curve if "loss" in point or "eval_loss" in point]


def training_arguments(
    recipe: Mapping, seed: int, hardware: Mapping, scratch: str | Path
) -> TrainingArguments:
    """The recipe in the Trainer's own terms."""
    if recipe["batch_examples"] % recipe["micro_batch_examples"]:
        raise ValueError(
            f"batch_examples {recipe['batch_examples']} is no multiple of "
            f"micro_batch_examples {recipe['micro_batch_examples']}"
        )
    return TrainingArguments(
        output_dir=str(scratch),
        max_steps=recipe["max_steps"],
        per_device_train_batch_size=recipe["micro_batch_examples"],
        gradient_accumulation_steps=recipe["batch_examples"] // recipe["micro_batch_examples"],
        learning_rate=recipe["learning_rate"],
        weight_decay=recipe["weight_decay"],
        adam_beta2=recipe["adam_beta2"],
        max_grad_norm=recipe["max_grad_norm"],
        lr_scheduler_type=recipe["schedule"],
        warmup_steps=recipe["warmup_steps"],
        optim=recipe["optimizer"],
        seed=seed,
        data_seed=seed,
        eval_strategy="steps",
        eval_steps=recipe["eval_steps"],
        logging_steps=max(1, recipe["max_steps"] // 100),
        save_strategy="no",
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=hardware["gpu"] > 0,
        use_cpu=hardware["gpu"] == 0,
        disable_tqdm=True,
        report_to=[],
        log_level="error",
    )


def _rows(inputs: Mapping[str, torch.Tensor]) -> Rows:
    return Rows(**{f.name: inputs[f.name] for f in fields(Rows)})
