"""The Hugging Face Trainer with resumable checkpoints, several ranks and optimizers for bfloat16.

Subclasses define what a batch holds and how its loss is computed: `ablation.training.trainer` for
finetuning, `ablation.bridge.training` for translators.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerState

from ablation.training import fsdp
from ablation.training.checkpoints import complete_checkpoints, lost_steps
from ablation.training.early_stopping import NON_FINITE, Stops
from ablation.training.fsdp import SHARDS
from ablation.training.optimizers.master_weights import ExactState, MasterWeights
from ablation.training.optimizers.stochastic_adafactor import StochasticAdafactor
from ablation.training.tracking import tracked

# File names that the Trainer uses.
WEIGHTS, SCHEDULER, TRAINER_STATE = "model.safetensors", "scheduler.pt", "trainer_state.json"


class ResumableTrainer(Trainer):
    """A Trainer whose checkpoints resume a training to the bit, on one rank or several.

    stops: early stopping of this training; it sees every entry of the log.
    constrain: called with the model after each step, to take away again what the step gave back.
    masters: whether every weight has a float32 copy, because `constrain` loses what a step adds.
    keep_gathered: whether ranks sum their gradients once a step instead of after each forward.
    """

    model: nn.Module  # the Trainer's may be None

    def __init__(
        self,
        *,
        stops: Stops,
        constrain: Callable[[Any], None] | None = None,
        masters: bool = False,
        keep_gathered: bool = False,
        **options: Any,
    ) -> None:
        """`options` are those of the Trainer, except for its data collator."""
        super().__init__(**options, data_collator=self.collate)
        self.stops, self.constrain, self.masters = stops, constrain, masters
        self.keep_gathered = keep_gathered and self.args.world_size > 1
        self.model_accepts_loss_kwargs = True  # the loss is divided by num_items_in_batch already
        self.remove_callback(PrinterCallback)  # progress lines show the same, with the time left

    def collate(self, batch: Sequence[Any]) -> dict[str, Any]:
        """A micro-batch: `parts`, one for each forward, and `tokens`, how many the batch has."""
        raise NotImplementedError

    def losses(self) -> dict[str, float]:
        """The losses of an evaluation; `eval_loss` is the one on held-out examples."""
        raise NotImplementedError

    def get_train_dataloader(self) -> DataLoader:
        """Let every rank read every batch and take its share in `collate`.

        If accelerate shared batches out, it would fill up the last one with examples seen before.
        """
        loader = super().get_train_dataloader()
        if self.args.world_size > 1:
            sampler: Any = loader.batch_sampler
            sampler.num_processes, sampler.process_index, sampler.even_batches = 1, 0, False
        return loader

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Forward and backward of each part of a micro-batch; the sum of their losses."""
        own = self._own_optimizer()
        loss = torch.zeros((), device=self.args.device)
        for number, part in enumerate(inputs["parts"], 1):
            if self.keep_gathered:
                last = number == len(inputs["parts"])
                fsdp.reduce_next(self.model, last and self.accelerator.sync_gradients)
            with own.gradients.aside() if own else nullcontext():
                loss = loss + super().training_step(model, part, num_items_in_batch)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # not reported anywhere

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        self.state.num_input_tokens_seen += inputs["tokens"]  # the Trainer would wait for the GPU

    # ---- optimizer -----------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """The optimizer of the Trainer's options, over float32 copies of bfloat16 weights.

        Optimizers that keep an `ExactState` step bfloat16 weights without copies.
        """
        if self.optimizer is None:
            made = super().create_optimizer(model)
            plain = all(weight.dtype == torch.float32 for weight in self.model.parameters())
            needs_copies = self.masters or not (plain or isinstance(made, ExactState))
            if needs_copies:
                made = MasterWeights(made, every=self.masters, written=self._constrain)
            elif self.constrain is not None:
                made.register_step_post_hook(lambda *_: self._constrain())
            self.optimizer = made
        return self.optimizer

    def _constrain(self) -> None:
        if self.constrain is not None:
            self.constrain(self.model)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip in float32, or without a separate pass, if the optimizer can."""
        if own := self._own_optimizer():
            return own.clip_grad_norm_(self.args.max_grad_norm)
        norm = super()._clip_grad_norm(model)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _inner_optimizer(self) -> Any:
        """The optimizer itself, without accelerate's wrapper."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _own_optimizer(self) -> MasterWeights | StochasticAdafactor | None:
        optimizer = self._inner_optimizer()
        return optimizer if isinstance(optimizer, MasterWeights | StochasticAdafactor) else None

    # ---- checkpoints ---------------------------------------------------------------------------

    def _adapter(self) -> dict[str, Tensor]:
        """{name: weight} of those that are trained, if others are frozen; else nothing."""
        weights = dict(self.model.named_parameters())
        trained = {name: weight.data for name, weight in weights.items() if weight.requires_grad}
        return trained if len(trained) < len(weights) else {}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the weights under their own names, so that every class can be saved."""
        folder = Path(output_dir or self.args.output_dir or "")
        folder.mkdir(parents=True, exist_ok=True)
        if self.args.world_size > 1:
            return  # the ranks write their shares
        if adapter := self._adapter():
            save_file(adapter, folder / WEIGHTS)
        else:
            save_model(self.model, str(folder / WEIGHTS))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str | Path, model: nn.Module | None = None
    ) -> None:
        if self.args.world_size == 1 and (adapter := self._adapter()):
            for name, saved in load_file(Path(resume_from_checkpoint) / WEIGHTS).items():
                adapter[name].copy_(saved)
        elif self.args.world_size == 1:
            load_model(self.model, Path(resume_from_checkpoint) / WEIGHTS)
        else:
            fsdp.load_weights(Path(resume_from_checkpoint) / SHARDS, self.model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.world_size > 1:
            fsdp.save_shards(Path(output_dir) / SHARDS, self.model, self._inner_optimizer())
            if self.args.should_save and self.lr_scheduler is not None:
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.args.world_size > 1 and checkpoint is not None:
            fsdp.load_optimizer(Path(checkpoint) / SHARDS, self.model, self._inner_optimizer())
            if self.lr_scheduler is not None:
                self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Compute, log and return `losses`."""
        metrics = self.losses()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def trainer_state(checkpoint: Path) -> TrainerState:
    """The Trainer's own record of a training up to `checkpoint`."""
    return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))


def past_of(newest: Path | None, stops: Stops) -> TrainerState:
    """The record of a training up to the checkpoint `newest`, which is replayed to `stops`.

    The record is empty if `newest` is None.
    """
    past = trainer_state(newest) if newest else TrainerState()
    for entry in past.log_history:
        stops.observe(entry)
    return past


def train_on(
    trainer: ResumableTrainer, newest: Path | None, past: TrainerState, label: str
) -> TrainerState:
    """Train from the checkpoint `newest` to the end or an early stop.

    Prints how many steps of an earlier attempt are lost, because no complete checkpoint has them.
    Returns the record of the training that the weights of `trainer.model` have seen. If a loss or
    gradient was not finite, these are the weights of the last complete checkpoint. Raises
    FloatingPointError if there is none.
    """
    stops, home = trainer.stops, Path(trainer.args.output_dir or "")
    if (lost := lost_steps(home)) and trainer.is_world_process_zero():
        step = past.global_step
        message = f"an earlier attempt was ended at step {step + lost}; going on from "
        message += f"step {step}, so {lost} steps run again. A smaller save_steps loses fewer"
        print(f"{label}: {message}", file=sys.stderr, flush=True)
    elif newest is not None and trainer.is_world_process_zero():
        print(f"{label}: going on from step {past.global_step}", file=sys.stderr, flush=True)
    over = stops.reason is not None or past.global_step >= trainer.args.max_steps
    if over:
        trainer.state = past  # the job was killed after the last step of the training
    else:
        with tracked(trainer, label, past.global_step):
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    seen = trainer.state
    if stops.reason == NON_FINITE:
        newest = next(reversed(complete_checkpoints(home)), None)
        if newest is None:
            raise FloatingPointError(
                f"{label}: loss or gradient was not finite by step {seen.global_step}, before a "
                f"checkpoint was saved. Lower learning_rate or save_steps."
            )
        seen = trainer_state(newest)
    if newest is not None and (over or stops.reason == NON_FINITE):
        trainer._load_from_checkpoint(newest)
    return seen
