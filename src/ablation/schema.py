"""What a study's configuration may say: every key with its type, its limits and its meaning.

The meanings stand here only: `make config` writes config/README.md, config/schema.json and the
comments of config/default.yaml from them. A rule between two keys is checked at the later one, so
that it is found whatever else is wrong. No torch here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from ablation.bridge.schema import Bridge
from ablation.names import MASKS, METRICS
from ablation.recipes import NAME, RECIPES
from ablation.sources import data_sets
from ablation.strict import (
    GroupedShape,
    Learning,
    NoLearning,
    Plateau,
    Seed,
    Strict,
    key,
    stop_in_time,
    whole_micro_batches,
    without_repeats,
)
from ablation.world.schema import MicroWorld

Mask = Literal[MASKS]
REPOSITORY = r"^[\w.-]+/[\w.-]+$"  # owner/name on the hub

RECIPE_NOTES = {
    "3A": "the control: goes on as the base was trained",
    "3B": "prefix-LM: prompt bidirectional, response causal",
    "3B-leaky": "every token sees its own target; kept to show what that does",
    "5A": "stage 5: 3B from the base again, for longer, until its held-out loss stalls",
    "5B": "stage 5: as 5A, more patient",
    "5C": "stage 5: longest, never stopped by a plateau",
}
# those that work on weights which several GPUs share out, in float32
SHARDED_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd")

# What a machine is asked for: no result depends on it, so it makes nothing stale.
ASKED = ("gpu_model", "gpu_mem_mb", "mem_mb", "disk_mb", "runtime")


class Hardware(Strict):
    gpu: int = key(
        "GPUs a finetuning asks for, which share its weights and examples; scoring takes one; 0 "
        "runs on the CPU",
        ge=0,
    )
    threads: int = key(
        "torch threads a job uses: bits may depend on it, so it belongs to the study", ge=1
    )
    dtype: Literal["float32", "bfloat16"] = key("of weights and activations")
    attention: Literal["sdpa", "eager", "flex_attention"] = key("the kernel")

    @field_validator("attention")
    @classmethod
    def _can_train(cls, attention: str, info: ValidationInfo) -> str:
        if attention == "flex_attention" and info.data.get("gpu") == 0:
            raise ValueError(
                "flex_attention cannot train on a CPU: ask for a GPU (hardware.gpu), or take sdpa"
            )
        return attention

    compile: bool = key(
        "compile decoder layers: faster on a GPU once a minute or two of compiling is over"
    )
    gpu_model: str | None = key(
        "which GPU, as the profile's scheduler or market names it; null: any with gpu_mem_mb",
        pattern=r"^[A-Za-z0-9_.]+$",
    )
    gpu_mem_mb: int = key("memory of each GPU, at least (MB); rented machines only", ge=0)
    mem_mb: int = key("memory of the machine, at least (MB)", ge=1)
    disk_mb: int = key("disk of a rented machine: base, checkpoints, states (MB)", ge=1)
    runtime: int = key("minutes, at most: a training ended here goes on at the next try", ge=1)

    def computing(self) -> dict:
        """What a result may depend on: all but what a machine is asked for."""
        return self.model_dump(exclude=set(ASKED))

    def asked(self) -> dict[str, int | str]:
        """Snakemake's resources of a job that runs the model; what is not asked for is left out."""
        asked = self.model_dump(include={"gpu", *ASKED}, exclude_none=True)
        without = () if self.gpu else ("gpu_model", "gpu_mem_mb")
        return {k: v for k, v in asked.items() if k not in without}


class Leak(Strict):
    ratio: float = key(
        "alarm when the loss under the training mask is below this share of the causal one, ...",
        gt=0,
        lt=1,
    )
    min_gap: float = key("... and at least this many nats below it", ge=0)
    on_leak: Literal["stop", "record"] = key("what an alarm does")


class StopRules(Strict):
    no_learning: NoLearning | None = key("first logged loss minus the best")
    plateau: Plateau | None = key(
        "held-out loss: {patience: evaluations, min_delta: nats, min_steps: none before}"
    )
    leak: Leak | None = key("loss of probe samples under the training mask, against causal")


class Training(Learning):
    batch_examples: int = key("examples an optimizer step, whatever the micro-batch", ge=1)
    micro_batch_examples: int = key(
        "examples a forward, on each GPU; memory only, the step stays the same", ge=1
    )
    max_seq_len: int = key("tokens an example", ge=8)
    row_tokens: int | None = key(
        "capacity of a packed row: memory and speed only; null, or less: max_seq_len", ge=8
    )
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adafactor_bf16"] = (
        key(
            "as the Trainer names it, over float32 copies of bfloat16 weights; adafactor_bf16 is "
            "adafactor without copies, weights rounded stochastically: 6 bytes a weight, not 10"
        )
    )
    eval_steps: int = key("steps between two looks at held-out and probe losses", ge=1)
    eval_samples: int = key("held-out examples at such a look", ge=1)
    heldout_fraction: float = key("held out by seed: the data has no validation split", gt=0, lt=1)
    stops: StopRules = key(
        "ends before max_steps, each a success with a reason; null: never for this one"
    )

    _whole = field_validator("micro_batch_examples")(whole_micro_batches)

    _stop_in_time = field_validator("stops")(stop_in_time)


class Recipe(Training):
    """One finetuning, whole: the `finetune:` block with the recipe's own keys on top."""

    train_mask: Mask = key("the mask in use while training")


class Evaluation(Strict):
    tasks: list[str] = key(
        "lm-eval tasks: files in config/tasks, or lm-eval's own; those named published_* are "
        "scored as the published scorer did it, and have a macro of their own (docs/published.md)",
        min_length=1,
    )
    metric: Literal[METRICS] = key(
        "what recovery.csv is made of (tasks published_*: acc_token); acc_norm per character, "
        "acc_bytes per byte, acc_token per token, acc_token_float32 the same without rounding"
    )
    limit: int | None = key("items a task, for a quick look; null: all that there are", ge=1)
    row_tokens: int | None = key(
        "capacity of a packed row: memory and speed only; null: as fast and as fits the GPU",
        ge=32,
    )
    batch_tokens: int = key(
        "tokens a forward: memory and speed only; under flex_attention a forward is one row", ge=64
    )

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, tasks: list[str]) -> list[str]:
        return without_repeats(tasks, "task")

    @field_validator("batch_tokens")
    @classmethod
    def _holds_a_row(cls, batch: int, info: ValidationInfo) -> int:
        if batch < (info.data.get("row_tokens") or batch):
            raise ValueError(f"less than one row (row_tokens {info.data['row_tokens']})")
        return batch


class Statistics(Strict):
    confidence: float = key("of every interval (docs/statistics.md)", gt=0, lt=1)


class Criteria(Strict):
    retention: float = key("P / B at least", ge=0)
    gain: float = key("P - A at least", ge=-1, le=1)


class Samples(Strict):
    prompts: list[Annotated[str, Field(pattern=r"\S")]] = key(
        "texts to continue; none: one item of each of the micro-world's tasks, where it has some"
    )
    max_new_tokens: int = key("length of a continuation at most", ge=1)


class Instructions(Strict):
    data: str = key("hub data set with a train split of Alpaca records", pattern=REPOSITORY)
    count: int = key("records: the first so many", ge=2)


class RandomBase(GroupedShape):
    seed: Seed = key("weights and texts")
    vocabulary: int = key("rows of the embeddings; the tokenizer may have fewer tokens", ge=512)


class Study(Strict):
    """One study. Every key has a value in config/default.yaml; a file says what differs."""

    study: str = key(
        "names results/<study> and logs/<study>; two studies run side by side",
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
    )
    base: str = key(
        "shipped: resources/micro | pretrain: make it here, from nothing | random: a rehearsal | a "
        "checkpoint's folder | a hub model (owner/name) that is named in pins",
        min_length=1,
    )
    pins: dict[Annotated[str, Field(pattern=REPOSITORY)], str | None] = key(
        "hub repositories, of the model and of data sets: each one's commit; null, or a branch, "
        "until `ablation pin` has asked the hub for it"
    )
    instructions: Instructions | None = key("what is learned; null: the micro-world's own records")
    seeds: list[Seed] = key(
        "one finetuning a recipe and seed: data order and held-out split, nothing else",
        min_length=1,
    )
    keep_states: bool = key("keep what a training could resume from after it has succeeded")
    keep_weights: bool = key(
        "`ablation push` sends checkpoints' weights too; without them tables and figures live on, "
        "and a new evaluation needs a new training"
    )
    hardware: Hardware = key("what a model job runs on")
    finetune: Training = key("what every recipe shares")
    recipes: dict[Annotated[str, Field(pattern=NAME)], Recipe] = key(
        f"one finetuning each, of {', '.join(RECIPES)}: those of stage 3 differ in the mask in use "
        "while training, those of stage 5 are 3B for longer. A sweep names variants, `3B-lr1e-4`: "
        "they take over the keys of the recipe that they are named after",
        min_length=1,
    )
    evaluation: Evaluation = key("what every checkpoint is scored on, under every mask")
    statistics: Statistics = key("of recovery.csv")
    criteria: Criteria = key('the published ones: a recipe "recovers" when both hold')
    samples: Samples = key("what the report shows continued by the base and by every recipe")
    world: MicroWorld = key(
        "the micro-world that makes items, finetuning data and, when asked for, the base"
    )
    random: RandomBase = key(
        "only under `base: random`: a Ministral-3 decoder of random weights, and generated texts "
        "in place of hub data sets; times and memory are real, accuracies mean nothing"
    )
    bridge: Bridge | None = key("the second study (docs/bridge.md); null: the first alone")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        return without_repeats(seeds, "seed")

    def recipe(self, name: str) -> dict:
        """The recipe as a plain mapping with every key in place."""
        return self.recipes[name].model_dump()

    @property
    def pretrained_here(self) -> bool:
        return self.base == "pretrain"

    @property
    def from_hub(self) -> bool:
        """Whether the base is a model of the hub: it is named in `pins`."""
        return self.base in self.pins

    @property
    def rehearsal(self) -> bool:
        """Whether weights and texts are random, so that accuracies mean nothing."""
        return self.base == "random"

    @property
    def data_sets(self) -> dict[str, list[tuple[str, str]]]:
        """{hub data set: the (configuration, split) of it that the study is scored on}."""
        return data_sets(self.evaluation.tasks)
