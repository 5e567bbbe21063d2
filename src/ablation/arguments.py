"""A recipe in the Hugging Face Trainer's own terms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.optim import Optimizer
from transformers import TrainingArguments

from ablation.adafactor import ShardedAdafactor
from ablation.precision import StochasticAdafactor


def own_optimizer(recipe: Mapping) -> tuple[type[Optimizer], dict] | None:
    """Class and options of an optimizer that the Trainer does not know."""
    if recipe["optimizer"] != "adafactor_bf16":
        return None
    return StochasticAdafactor, {"lr": recipe["learning_rate"]}


def sharded_optimizer(recipe: Mapping) -> tuple[type[Optimizer], dict] | None:
    """As `own_optimizer`, over weights that are shared out among ranks in float32."""
    if recipe["optimizer"] != "adafactor":
        return None
    return ShardedAdafactor, {"lr": recipe["learning_rate"]}


def training_arguments(
    recipe: Mapping,
    seed: int,
    hardware: Mapping,
    state: str | Path,
    micro_batch: int,
    ranks: int = 1,
) -> TrainingArguments:
    """The recipe in the Trainer's own terms.

    With several `ranks`, each of which reads whole batches and takes its share of `micro_batch`
    examples, the Trainer's batch is that of all.
    """
    arguments = TrainingArguments(
        output_dir=str(state),
        max_steps=recipe["max_steps"],
        per_device_train_batch_size=micro_batch * ranks,
        gradient_accumulation_steps=recipe["batch_examples"] // (micro_batch * ranks),
        learning_rate=recipe["learning_rate"],
        weight_decay=recipe["weight_decay"],
        adam_beta2=recipe["adam_beta2"],
        max_grad_norm=recipe["max_grad_norm"],
        lr_scheduler_type=recipe["schedule"],
        warmup_steps=recipe["warmup_steps"],
        optim="adafactor" if own_optimizer(recipe) else recipe["optimizer"],
        seed=seed,
        data_seed=seed,
        eval_strategy="steps",
        eval_steps=recipe["eval_steps"],
        logging_steps=recipe["log_steps"],
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen
        include_num_input_tokens_seen="non_padding",
        accelerator_config={
            "non_blocking": hardware["gpu"] > 0,
            # whole gradients of all weights would not fit: what is shared out stays so
            "gradient_accumulation_kwargs": {"sync_each_batch": ranks > 1},
        },
        save_strategy="steps",
        save_steps=recipe["save_steps"],
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=hardware["gpu"] > 0,
        use_cpu=hardware["gpu"] == 0,
        disable_tqdm=True,
        report_to=[],
        log_level="error",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # on several, DataParallel would cut rows apart
    return arguments
