"""What a finetuning is: its data, the `finetune:` block, early stops, the keys of one recipe.

Also how what it brings back is scored, judged and shown: `evaluation:`, `statistics:`, `criteria:`
and `samples:`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ablation.config.fields import (
    Learning,
    NoLearning,
    OneOf,
    Plateau,
    Strict,
    described_field,
    is_null,
    is_off,
    stop_in_time,
    whole_micro_batches,
    without_repeats,
)
from ablation.config.world import Record, Weight, not_all_zero
from ablation.vocabulary.formats import FORMATS
from ablation.vocabulary.masks import MASKS
from ablation.vocabulary.metrics import METRICS
from ablation.vocabulary.optimizers import OPTIMIZERS
from ablation.vocabulary.protocols import PUBLISHED_PROTOCOL, protocol_of

ALL_LINEAR = "all-linear"
MaskName = Annotated[str, OneOf(MASKS)]
Examples = Annotated[int, Field(ge=0)]
MetricName = Annotated[str, OneOf(METRICS)]


class Instructions(Strict):
    """Instruction data of the hub, or on this machine."""

    data: str = described_field(
        "Hub data set (owner/name) with a train split of Alpaca records; or a file or folder here, "
        "as JSON Lines, JSON or parquet, with Alpaca's fields or chats (docs/own_data.md).",
        min_length=1,
    )
    count: int | None = described_field(
        "Number of records; the first ones are taken. null takes all, of local files only.",
        ge=2,
        default=None,
        exclude_if=is_null,
    )


class Leak(Strict):
    """Detects a training mask that shows the model its targets."""

    ratio: float = described_field(
        "The alarm is raised when the loss under the training mask is below this share of the "
        "causal loss, ...",
        gt=0,
        lt=1,
    )
    min_gap: float = described_field("... and at least this many nats below it.", ge=0)
    on_leak: Literal["stop", "record"] = described_field(
        "Whether an alarm stops the training or is only recorded."
    )


class StopRules(Strict):
    """The rules that can end a training before its last step."""

    no_learning: NoLearning | None = described_field(
        "Stops a training whose loss has not fallen by `min_improvement` nats after `after_steps` "
        "steps; null never does."
    )
    plateau: Plateau | None = described_field(
        "Stops a training after `patience` evaluations whose held-out loss is not `min_delta` nats "
        "better, from step `min_steps` on; null never does."
    )
    leak: Leak | None = described_field(
        "Compares the losses of probe samples under the training mask and under causal, to detect "
        "a mask that shows the model its targets; null never does."
    )


class Adapter(Strict):
    """An adapter that is trained in place of the weights, and merged into them at the end."""

    kind: Literal["lora"] = described_field(
        "LoRA adds the product of two small matrices to a weight."
    )
    r: int = described_field("Rank of the product that is added to the weight of a layer.", ge=1)
    alpha: int = described_field("The product is multiplied by alpha / r.", ge=1)
    targets: Literal["all-linear"] | list[str] = described_field(
        "Linear layers that get an adapter: the last parts of their names, such as `q_proj`, or "
        "`all-linear` for all but the head."
    )
    dropout: float = described_field(
        "Share of the inputs of an adapter that is dropped while training.", default=0.0, ge=0, lt=1
    )
    base_bits: Literal[4] | None = described_field(
        "Bits of the frozen weights while training (QLoRA; needs bitsandbytes); the adapter is "
        "merged into the whole weights. null leaves them as they are.",
        default=None,
        exclude_if=is_null,
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _named(cls, targets: object) -> object:
        listed = isinstance(targets, list) and targets
        if targets == ALL_LINEAR or (listed and all(n and isinstance(n, str) for n in listed)):
            return without_repeats(targets, "target") if isinstance(targets, list) else targets
        raise ValueError(f"`{ALL_LINEAR}` or a list of names of linear layers was expected")


class Training(Learning):
    """The `finetune:` block."""

    batch_examples: int = described_field(
        "Number of examples in an optimizer step, whatever the micro-batch.", ge=1
    )
    micro_batch_examples: int = described_field(
        "Number of examples in a forward pass on each GPU; it affects memory, not the step.", ge=1
    )
    max_seq_len: int = described_field("Largest number of tokens of an example.", ge=8)
    row_tokens: int | None = described_field(
        "Capacity of a packed row in tokens; it affects memory and speed only. `max_seq_len` is "
        "used if this is smaller; null takes the longest example.",
        ge=8,
    )
    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = described_field(
        "Optimizer, under its name in transformers' Trainer, over float32 copies of bfloat16 "
        "weights. `adafactor_bf16` is Adafactor without these copies: it rounds weights "
        "stochastically and needs 6 bytes for each weight instead of 10. `adafactor_plain` is the "
        "published one, without copies and without that: it rounds most small updates away."
    )
    eval_steps: int = described_field(
        "Steps between two evaluations on held-out and probe samples.", ge=1
    )
    eval_samples: int = described_field("Number of held-out examples of an evaluation.", ge=1)
    heldout_fraction: float = described_field(
        "Share of the examples that is held out; the seed chooses them, because the data has no "
        "validation split.",
        gt=0,
        lt=1,
    )
    max_examples: int | None = described_field(
        "Largest number of examples to train on, of those not held out; null takes all.", ge=1
    )
    format: Annotated[str, OneOf(FORMATS)] = described_field(
        "How a record becomes an example. `corrected`: BOS, and one space between `### Response:` "
        "and the output. `published`, as the published code does it: no BOS, a new line for that "
        "space, no white space around fields, and its draw of held-out records."
    )
    records: dict[Record, Weight] | None = described_field(
        "How often each family of the micro-world's records occurs among those of this recipe; "
        "null takes the study's records, which `world.finetuning` or `instructions` names."
    )
    adapter: Adapter | None = described_field(
        "Adapter that is trained beside frozen weights and then merged into them "
        "(docs/interventions.md); null trains all weights.",
        default=None,
        exclude_if=is_null,
    )
    stops: StopRules = described_field(
        "Rules that end a training before `max_steps`; such an end is a success, and its reason is "
        "recorded."
    )

    @field_validator("records")
    @classmethod
    def _has_a_weight(cls, weights: dict[str, int] | None) -> dict[str, int] | None:
        return weights if weights is None else not_all_zero(weights)

    _whole_micro_batches = field_validator("micro_batch_examples")(whole_micro_batches)

    _stop_in_time = field_validator("stops")(stop_in_time)


class Recipe(Training):
    """One complete finetuning: the `finetune:` block, overridden by the recipe's own keys."""

    train_mask: MaskName = described_field("Mask in use while training.")
    train_under: str | None = described_field(
        "What is taken away while training: one of `interventions`, or a mask, as `train_mask` "
        "names it. The name of the recipe must have it as a word, such as `3B-thin`.",
        default=None,
        exclude_if=is_null,
    )
    score_under: list[str] | None = described_field(
        "Further conditions under which checkpoints of the recipe are scored: names of "
        "`interventions`, or `causal`. By default one that was trained under an intervention is "
        "scored under it, and without it if it can be lifted; a control under every one.",
        default=None,
        exclude_if=is_null,
    )


class Statistics(Strict):
    """How intervals are computed."""

    confidence: float = described_field(
        "Confidence level of all intervals (docs/statistics.md).", gt=0, lt=1
    )


class Criteria(Strict):
    """When a recipe counts as having recovered."""

    retention: float = described_field("Least P / B.", ge=0)
    gain: float = described_field("Least P - A.", ge=-1, le=1)


class Samples(Strict):
    """The continuations that the report shows."""

    prompts: list[Annotated[str, Field(pattern=r"\S")]] = described_field(
        "Texts to continue. An empty list takes one item of each task of the micro-world."
    )
    max_new_tokens: int = described_field("Largest number of tokens of a continuation.", ge=1)


class Evaluation(Strict):
    """What every checkpoint is scored on."""

    tasks: list[str] = described_field(
        "Tasks of lm-eval, of multiple choice or generation tasks (docs/generation.md): files in "
        "config/tasks, or lm-eval's own. Tasks named published_* are scored by the published "
        "protocol and have a macro of their own (docs/published.md).",
        min_length=1,
    )
    metric: MetricName = described_field(
        "Metric of recovery.csv; tasks named published_* always use acc_token. It divides the "
        "log-likelihood of a choice by its number of characters (acc_norm), bytes (acc_bytes) or "
        "tokens (acc_token), or by nothing (acc). acc_token_float32 is acc_token without rounding."
    )
    data_folder: str | None = described_field(
        "Folder here with the data sets of the tasks, as on the hub: `<data set>/<configuration>/"
        "<split>-....parquet` (docs/own_data.md). null takes them from the hub, at the commits in "
        "`pins`.",
        default=None,
        exclude_if=is_null,
    )
    num_fewshot: Examples | dict[str, Examples] | None = described_field(
        "Number of examples in each prompt, of all tasks or by task, as lm-eval draws them; null "
        "takes that of each task file, mostly 0. Tasks named published_* have none.",
        default=None,
        exclude_if=is_null,
    )
    chat_template: bool = described_field(
        "Whether prompts are put into the chat template of the model, with examples as turns, as "
        "lm-eval's `apply_chat_template` does; not those of tasks named published_*.",
        default=False,
        exclude_if=is_off,
    )
    limit: int | None = described_field(
        "Largest number of items of a task, for a quick look; null scores all.", ge=1
    )
    row_tokens: int | None = described_field(
        "Capacity of a packed row in tokens; it affects memory and speed only. null is as fast as "
        "fits the GPU.",
        ge=32,
    )
    batch_tokens: int = described_field(
        "Number of tokens of a forward pass; it affects memory and speed only. Under "
        "flex_attention a forward pass is one row.",
        ge=64,
    )

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, tasks: list[str]) -> list[str]:
        return without_repeats(tasks, "task")

    @field_validator(
        "num_fewshot",
        mode="plain",
        json_schema_input_type=Examples | dict[str, Examples] | None,
    )
    @classmethod
    def _numbers_of_its_tasks(cls, asked: Any, info: ValidationInfo) -> Any:
        named = asked if isinstance(asked, dict) else {}
        numbers = [*named.values()] if asked is None or named else [asked]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a number (0 or more), or {task: number}, was expected")
        tasks = info.data.get("tasks", named)
        for task in named:
            if task not in tasks or protocol_of(task) == PUBLISHED_PROTOCOL:
                raise ValueError(f"{task} named, but tasks of lm-eval in `tasks` were expected")
        return asked

    @field_validator("batch_tokens")
    @classmethod
    def _holds_a_row(cls, batch: int, info: ValidationInfo) -> int:
        if batch < (info.data.get("row_tokens") or batch):
            raise ValueError(f"less than one row (row_tokens {info.data['row_tokens']})")
        return batch
