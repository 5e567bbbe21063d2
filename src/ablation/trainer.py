"""The Hugging Face Trainer with packed rows, a loss over response tokens and optimizers of ours.

The loss counts response tokens only and is averaged over all response tokens of the optimizer
step, whatever the micro-batches and rows that they were packed into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PrinterCallback, Trainer

from ablation import sharding
from ablation.arguments import own_optimizer
from ablation.head import summed_cross_entropy
from ablation.masks import wants_fixed_rows
from ablation.models import last_states, target_logits
from ablation.packing import IGNORED_LABEL, Example, Rows, token_count
from ablation.precision import MasterWeights, StochasticAdafactor
from ablation.sharding import SHARDS
from ablation.stops import Stops

WEIGHTS, SCHEDULER = "model.safetensors", "scheduler.pt"  # names that the Trainer knows


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


def _rows(inputs: Mapping[str, torch.Tensor]) -> Rows:
    return Rows(**{f.name: inputs[f.name] for f in fields(Rows)})
