"""Translates a recipe into the arguments of the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer
from transformers import Adafactor, TrainingArguments

from ablation.config.study import ComputeSettings
from ablation.training.optimizers.master_weights import ExactState
from ablation.training.optimizers.stochastic_adafactor import StochasticAdafactor


class PlainAdafactor(ExactState, Adafactor):
    """Adafactor directly on bfloat16 weights, as the published code trained: for comparison alone.

    It is that of transformers with the Trainer's settings: no relative steps, and no scaling by the
    weights. Gradients are added up in bfloat16, and each updated weight is rounded to the nearest
    bfloat16 number, which loses most updates at a learning rate of 2e-5 (docs/footguns.md).
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, **options: float
    ) -> None:
        settings = {"scale_parameter": False, "relative_step": False}
        super().__init__(params, lr=lr, **settings, **options)


# Optimizers that are not the Trainer's: for bfloat16 weights without float32 copies, and for
# weights that are shared out among ranks.
CUSTOM: dict[str, type[Optimizer]] = {
    "adafactor_bf16": StochasticAdafactor,
    "adafactor_plain": PlainAdafactor,
}
SHARDED: dict[str, type[Optimizer]] = {
    "adafactor": StochasticAdafactor,  # of float32 weights, which it does not round
    "adafactor_bf16": StochasticAdafactor,
}
ClassAndOptions = tuple[type[Optimizer], dict[str, Any]]


class TrainingRecipe(Protocol):
    """The settings that the recipes of both studies share."""

    @property
    def max_steps(self) -> int: ...
    @property
    def batch_examples(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def adam_beta2(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def eval_steps(self) -> int: ...
    @property
    def log_steps(self) -> int: ...
    @property
    def save_steps(self) -> int: ...


def custom_optimizer(recipe: TrainingRecipe) -> ClassAndOptions | None:
    """Class and options of the recipe's optimizer, or None if it is one of the Trainer's."""
    return _of(CUSTOM, recipe)


def sharded_optimizer(recipe: TrainingRecipe) -> ClassAndOptions | None:
    """As `custom_optimizer`, over weights that are shared out among ranks."""
    return _of(SHARDED, recipe)


def _of(optimizers: dict[str, type[Optimizer]], recipe: TrainingRecipe) -> ClassAndOptions | None:
    if recipe.optimizer not in optimizers:
        return None
    return optimizers[recipe.optimizer], {"lr": recipe.learning_rate}


def training_arguments(
    recipe: TrainingRecipe,
    seed: int,
    hardware: ComputeSettings,
    home: str | Path,
    micro_batch: int,
    ranks: int = 1,
) -> TrainingArguments:
    """The arguments of a training by `recipe` whose checkpoints are written to `home`.

    micro_batch: examples of one forward and backward on each rank.
    ranks: the number of processes. Each of them reads whole batches and takes its share, so the
        Trainer's batch is that of all ranks.
    """
    custom = recipe.optimizer in CUSTOM
    on_gpu, on_cuda = hardware.gpu > 0, hardware.torch_device == "cuda"
    arguments = TrainingArguments(
        output_dir=str(home),
        max_steps=recipe.max_steps,
        per_device_train_batch_size=micro_batch * ranks,
        gradient_accumulation_steps=recipe.batch_examples // (micro_batch * ranks),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        optim="adafactor" if custom else recipe.optimizer,
        seed=seed,
        data_seed=seed,
        eval_strategy="steps",
        eval_steps=recipe.eval_steps,
        logging_steps=recipe.log_steps,
        logging_nan_inf_filter=False,  # the log must show a loss that is not finite
        include_num_input_tokens_seen="non_padding",
        accelerator_config={
            "non_blocking": on_cuda,
            # The whole gradients of all weights would not fit into memory, so each rank keeps only
            # its part of them between micro-batches.
            "gradient_accumulation_kwargs": {"sync_each_batch": ranks > 1},
        },
        save_strategy="steps",
        save_steps=recipe.save_steps,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=on_cuda,
        use_cpu=not on_gpu,
        disable_tqdm=True,
        report_to=[],
        log_level="error",
    )
    # With several visible GPUs DataParallel would split rows between them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
