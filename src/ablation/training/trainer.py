"""The trainer of finetunings: packed rows, and a loss over response tokens under a mask.

The loss counts response tokens only. It is averaged over all response tokens of the optimizer
step, whatever the micro-batches and rows into which they are packed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from ablation.config.study import Recipe
from ablation.model.forward import last_states, target_logits
from ablation.model.masks import uses_fixed_rows
from ablation.model.output_head import summed_cross_entropy
from ablation.model.packing import IGNORED_LABEL, Example, Rows, token_count
from ablation.parallel.collectives import sum_over_ranks
from ablation.training import fsdp
from ablation.training.resumable_trainer import ResumableTrainer
from ablation.training.trainer_arguments import CUSTOM
from ablation.vocabulary.masks import CAUSAL


def summed_loss(model: PreTrainedModel, rows: Rows, mask: str) -> tuple[Tensor, int]:
    """The summed negative log-likelihood (nats) of all targets in `rows`, and their number."""
    if model.device.type == "cuda":
        states, head = last_states(model, rows, mask)
        predictors = rows.target_row * states.shape[1] + rows.target_position
        states = states.flatten(0, 1).index_select(0, predictors)
        return summed_cross_entropy(head, states, rows.target_id), len(rows.target_id)
    logits = target_logits(model, rows, mask).float()
    return cross_entropy(logits, rows.target_id, reduction="sum"), len(rows.target_id)


@torch.no_grad()
def mean_loss(
    model: PreTrainedModel, examples: Sequence[Example], mask: str, capacity: int, batch: int
) -> float:
    """Mean loss (nats a response token) of `examples` under `mask`.

    Each forward takes at most `batch` examples, in rows of `capacity` tokens.
    """
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(examples), batch):
        part, fixed = examples[start : start + batch], uses_fixed_rows(model)
        for rows in fsdp.rank_forwards(part, capacity, fixed, widths=1):
            loss, n = fsdp.with_whole_weights(model, summed_loss, rows.to(model.device), mask)
            total, count = total + loss.item(), count + n
    model.train(was_training)
    all_losses, all_tokens = sum_over_ranks([total, count], model.device)
    return all_losses / all_tokens


class MaskedTrainer(ResumableTrainer):
    """A trainer whose batches are packed rows, and whose loss counts response tokens.

    recipe: the finetuning; its `train_mask` is the mask of the loss.
    row_tokens: capacity of a packed row.
    probe: examples whose loss is measured under the training mask and under `causal`.
    """

    model: PreTrainedModel

    def __init__(
        self, *, recipe: Recipe, row_tokens: int, probe: Sequence[Example], **options: Any
    ) -> None:
        """`options` are those of `ResumableTrainer`."""
        super().__init__(**options)
        self.recipe, self.row_tokens, self.probe = recipe, row_tokens, probe
        if self.args.world_size > 1:
            float32 = recipe.optimizer not in CUSTOM
            fsdp.shard(self.model, float32, self.keep_gathered)
            # The Trainer must neither place the model nor reduce its gradients: `fsdp` does both.
            self.is_distributed_loading_by_transformers = True

    def collate(self, batch: Sequence[Example]) -> dict[str, Any]:
        """A micro-batch: the rows of each of its forwards, and the labels and tokens to count."""
        parts = fsdp.rank_forwards(batch, self.row_tokens, uses_fixed_rows(self.model))
        labels = torch.cat([rows.labels.flatten() for rows in parts])
        tokens = sum(map(token_count, batch))
        # One more column, because the Trainer does not count the first.
        labels = torch.nn.functional.pad(labels, (1, 0), value=IGNORED_LABEL)[None]
        return {"parts": [vars(rows) for rows in parts], "labels": labels, "tokens": tokens}

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one part of a micro-batch, divided by the response tokens of the step."""
        rows, mask = _rows(inputs), self.recipe.train_mask
        loss, count = fsdp.with_whole_weights(model, summed_loss, rows, mask)
        # Gradients and logged losses are averaged over ranks, but the tokens are those of all.
        loss = loss * self.args.world_size
        return loss / (count if num_items_in_batch is None else num_items_in_batch)

    def mean_loss_of(self, examples: Sequence[Example], mask: str) -> float:
        """Mean loss (nats a response token) of `examples` under `mask`."""
        batch = self.args.per_device_train_batch_size
        return mean_loss(self.model, examples, mask, self.row_tokens, batch)

    def losses(self) -> dict[str, float]:
        """Held-out loss under the training mask, and probe losses under it and under `causal`."""
        mask, heldout = self.recipe.train_mask, self.eval_dataset
        assert isinstance(heldout, list)
        return {
            "eval_loss": self.mean_loss_of(heldout[: self.recipe.eval_samples], mask),
            "probe_loss_train_mask": self.mean_loss_of(self.probe, mask),
            "probe_loss_causal": self.mean_loss_of(self.probe, CAUSAL),
        }


def _rows(inputs: Mapping[str, Any]) -> Rows:
    return Rows(**{field.name: inputs[field.name] for field in fields(Rows)})
