"""What a study's configuration may say: every key with its type, its limits and its meaning.

The meanings stand here only: `make config` writes config/README.md, config/schema.json and the
comments of config/default.yaml from them. A rule between two keys is checked at the later one, so
that it is found whatever else is wrong. No torch here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ablation.names import MASKS, METRICS, PROTOCOLS, RECIPES
from ablation.world.scenes import TASKS

Mask = Literal[MASKS]
Record = Literal[(*TASKS, "open")]
Text = Literal[(*TASKS, "statement", "register", "alpaca")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # numpy takes no other
Weight = Annotated[int, Field(ge=0)]

RECIPE_NOTES = {
    "3A": "the control: goes on as the base was trained",
    "3B": "prefix-LM: prompt bidirectional, response causal",
    "3B-leaky": "every token sees its own target; kept to show what that does",
    "5A": "stage 5: 3B from the base again, for longer, until its held-out loss stalls",
    "5B": "stage 5: as 5A, more patient",
    "5C": "stage 5: longest, never stopped by a plateau",
}


def key(meaning: str, **limits: Any) -> Any:
    """A key that must be given, and what it means."""
    return Field(description=meaning, **limits)


class Strict(BaseModel):
    """No unknown key, no text where a number belongs, nothing that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Hardware(Strict):
    gpu: int = key("GPUs a job asks for; 0 runs on the CPU", ge=0)
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


class NoLearning(Strict):
    after_steps: int = key("judged from this step on", ge=1)
    min_improvement: float = key("nats: first logged loss minus the best", gt=0)


class Plateau(Strict):
    patience: int = key("evaluations in a row without gain", ge=1)
    min_delta: float = key("nats that count as a gain", ge=0)
    min_steps: int = key("nothing counts before this step", ge=0)


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


class Training(Strict):
    max_steps: int = key("optimizer steps", ge=1)
    batch_examples: int = key("examples an optimizer step, whatever the micro-batch", ge=1)
    micro_batch_examples: int = key(
        "examples a forward; memory only, the step stays the same", ge=1
    )
    max_seq_len: int = key("tokens an example", ge=8)
    row_tokens: int | None = key(
        "capacity of a packed row: memory and speed only; null, or less: max_seq_len", ge=8
    )
    learning_rate: float = key("at its highest", gt=0)
    weight_decay: float = key("of everything but norms and biases", ge=0)
    warmup_steps: int = key("steps up to the learning rate, of max_steps", ge=0)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = key("after the warm-up")
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adamw_bf16"] = key(
        "as the Trainer names it, over float32 copies of bfloat16 weights; adamw_bf16 is AdamW "
        "without copies, everything in bfloat16 and rounded stochastically: 8 bytes a weight"
    )
    adam_beta2: float = key("short trainings want a short memory", gt=0, lt=1)
    max_grad_norm: float = key("gradients are clipped to it", gt=0)
    log_steps: int = key("steps between two points of the loss curve", ge=1)
    save_steps: int = key("steps between two states to resume from; a multiple of log_steps", ge=1)
    eval_steps: int = key("steps between two looks at held-out and probe losses", ge=1)
    eval_samples: int = key("held-out examples at such a look", ge=1)
    heldout_fraction: float = key("held out by seed: the data has no validation split", gt=0, lt=1)
    stops: StopRules = key(
        "ends before max_steps, each a success with a reason; null: never for this one"
    )

    @field_validator("micro_batch_examples")
    @classmethod
    def _whole_micro_batches(cls, micro: int, info: ValidationInfo) -> int:
        if micro > 0 and info.data.get("batch_examples", micro) % micro:
            raise ValueError(f"batch_examples {info.data['batch_examples']} is no multiple of it")
        return micro

    @field_validator("warmup_steps")
    @classmethod
    def _warm_in_time(cls, warmup: int, info: ValidationInfo) -> int:
        if warmup >= info.data.get("max_steps", warmup + 1):
            raise ValueError(
                f"the training has only {info.data['max_steps']} steps (max_steps): give fewer"
            )
        return warmup

    @field_validator("save_steps")
    @classmethod
    def _saves_whole_means(cls, save: int, info: ValidationInfo) -> int:
        if save % info.data.get("log_steps", save):
            raise ValueError(
                f"no multiple of log_steps {info.data['log_steps']}: a resumed training would log "
                "other means"
            )
        return save

    @field_validator("stops")
    @classmethod
    def _stops_in_time(cls, stops: StopRules, info: ValidationInfo) -> StopRules:
        last = info.data.get("max_steps")
        if stops.plateau and last and stops.plateau.min_steps > last:
            raise ValueError(
                f"plateau.min_steps {stops.plateau.min_steps} is beyond max_steps {last}: it "
                "would never stop; give fewer, or plateau: null"
            )
        return stops


class Recipe(Training):
    """One finetuning, whole: the `finetune:` block with the recipe's own keys on top."""

    train_mask: Mask = key("the mask in use while training")


class Evaluation(Strict):
    protocol: Literal[PROTOCOLS] = key(
        "lm_eval: text, tokens and BOS as lm-eval's HFLM has them; published: as the published "
        "scorer had them, with the tasks published_* (docs/published.md)"
    )
    tasks: list[str] = key("lm-eval tasks: files in config/tasks, or lm-eval's own", min_length=1)
    metric: Literal[METRICS] = key(
        "what recovery.csv is made of; acc_norm per character, acc_bytes per byte, acc_token per "
        "token, acc_token_float32 the same without rounding to logits_dtype"
    )
    limit: int | None = key("items a task, for a quick look; null: all", ge=1)
    row_tokens: int | None = key(
        "capacity of a packed row: memory and speed only; null: what fits into the GPU", ge=32
    )
    batch_tokens: int = key(
        "tokens a forward: memory and speed only; under flex_attention a forward is one row", ge=64
    )
    logits_dtype: Literal["float32", "bfloat16"] = key(
        "of log-softmax and sums; bfloat16 reproduces what rounding does"
    )

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, tasks: list[str]) -> list[str]:
        return _without_repeats(tasks, "task")

    @field_validator("tasks")
    @classmethod
    def _of_the_protocol(cls, tasks: list[str], info: ValidationInfo) -> list[str]:
        protocol = info.data.get("protocol")
        other = [t for t in tasks if t.startswith("published_") != (protocol == "published")]
        if protocol and other:
            raise ValueError(
                f"{', '.join(other)} cannot be scored under `protocol: {protocol}`: the tasks of "
                "`published` are those named published_*, all others belong to `lm_eval`"
            )
        return tasks

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


class Items(Strict):
    seed: Seed = key("which items are drawn")
    count: int = key("items a task", ge=1)


class Finetuning(Strict):
    seed: Seed = key("which records are drawn")
    count: int = key("records; a finetuning of 250 steps sees three quarters of them", ge=2)
    weights: dict[Record, Weight] = key(
        "more of what comes back slowest; half is open-ended, as instruction data are"
    )

    @field_validator("weights")
    @classmethod
    def _some(cls, weights: dict[str, int]) -> dict[str, int]:
        return _not_all_zero(weights)


class Tokenizer(Strict):
    documents: int = key("texts it learns from", ge=1)
    vocabulary: int = key("tokens at most; bytes and special tokens are 259", ge=260)


class Decoder(Strict):
    width: int = key("of the residual stream", ge=1)
    feed_forward: int = key("width between the two halves of a feed-forward block", ge=1)
    layers: int = key("attention and feed-forward blocks", ge=1)
    heads: int = key("of attention; keys and values have as many", ge=1)
    head_dim: int = key("dimensions a head, even for rotary positions", ge=2, multiple_of=2)
    embedding_std: float = key(
        "wide embeddings make tokens distinct from the first step: binding forms sooner", gt=0
    )


class Primer(Strict):
    alone_until: int = key("steps that read nothing else", ge=0)
    faded_at: int = key("step at which it has faded to kept_share", ge=1)
    kept_share: float = key("of a batch, to the end", ge=0, le=1)

    @field_validator("faded_at")
    @classmethod
    def _fades(cls, faded: int, info: ValidationInfo) -> int:
        if faded <= info.data.get("alone_until", -1):
            raise ValueError(f"must come after alone_until {info.data['alone_until']}")
        return faded


class Check(Strict):
    items: int = key("development items a task", ge=1)
    from_step: int = key("the first look", ge=1)
    every: int = key("steps between two looks", ge=1)


class Pretrain(Strict):
    seed: Seed = key("weights and texts")
    attempts: int = key(
        "from the next seed, when some task was not learned on development items", ge=1
    )
    threads: int = key("torch threads; bits may depend on it", ge=1)
    documents: dict[Text, Weight] = key(
        "how often each kind of text comes; two-hop questions are learned last, so most often"
    )
    tokenizer: Tokenizer = key("byte-level BPE, learned from such texts")
    model: Decoder = key("a Ministral-3 decoder")
    lr_muon: float = key("matrices", gt=0)
    lr_adamw: float = key("embeddings and norms", gt=0)
    rate_after_primer: float = key("of both", gt=0)
    warmup_steps: int = key("steps up to both learning rates", ge=1)
    max_steps: int = key("an attempt ends here at the latest", ge=2)
    cooldown_steps: int = key("to zero, once every task is learned", ge=1)
    max_grad_norm: float = key("gradients are clipped to it", gt=0)
    stop_accuracy: float = key(
        'what "learned" means, on every task\'s development items', gt=0, le=1
    )
    batch_documents: int = key("documents a step", ge=1)
    row_tokens: int = key("capacity of a packed row; no document may be longer", ge=64)
    primer: Primer = key("steps: lists that teach binding first")
    check: Check = key("looks at development items, to see what is learned")

    @field_validator("documents")
    @classmethod
    def _some(cls, documents: dict[str, int]) -> dict[str, int]:
        return _not_all_zero(documents)

    @field_validator("max_steps")
    @classmethod
    def _warm_in_time(cls, last: int, info: ValidationInfo) -> int:
        if last <= info.data.get("warmup_steps", 0):
            raise ValueError(f"must be more than warmup_steps {info.data['warmup_steps']}")
        return last

    @field_validator("check")
    @classmethod
    def _looks_in_time(cls, check: Check, info: ValidationInfo) -> Check:
        last, cooldown = info.data.get("max_steps"), info.data.get("cooldown_steps")
        if last and cooldown and check.from_step + cooldown >= last:
            raise ValueError(
                f"from_step {check.from_step} and cooldown_steps {cooldown} leave no step of "
                f"max_steps {last}: nothing could ever count as learned"
            )
        return check


class MicroWorld(Strict):
    seed: Seed = key(
        "facts and split of scenes; seeds here are frozen: nothing was chosen by what they gave"
    )
    eval_percent: int = key("scenes that only the reported items ask about", ge=1, le=98)
    dev_percent: int = key("scenes that only pretraining's own checks ask about", ge=1, le=98)
    items: Items = key("what the study is scored on")
    finetuning: Finetuning = key("Alpaca records from training scenes")
    pretrain: Pretrain = key("only under `base: pretrain`")

    @field_validator("dev_percent")
    @classmethod
    def _leaves_training(cls, dev: int, info: ValidationInfo) -> int:
        if dev + info.data.get("eval_percent", 0) >= 100:
            raise ValueError(
                f"with eval_percent {info.data['eval_percent']} nothing is left to train on: both "
                "together must be below 100"
            )
        return dev


class Study(Strict):
    """One study. Every key has a value in config/default.yaml; a file says what differs."""

    study: str = key(
        "names results/<study> and logs/<study>; two studies run side by side",
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
    )
    base: str = key(
        "shipped: resources/micro | pretrain: make it here, from nothing | a checkpoint's folder",
        min_length=1,
    )
    seeds: list[Seed] = key(
        "one finetuning a recipe and seed: data order and held-out split, nothing else",
        min_length=1,
    )
    keep_states: bool = key("keep what a training could resume from after it has succeeded")
    hardware: Hardware = key("what a model job runs on")
    finetune: Training = key("what every recipe shares")
    recipes: dict[Literal[RECIPES], Recipe] = key(
        "the mask in use while training is all in which they differ",
        min_length=1,
    )
    evaluation: Evaluation = key("what every checkpoint is scored on, under every mask")
    statistics: Statistics = key("of recovery.csv")
    criteria: Criteria = key('the published ones: a recipe "recovers" when both hold')
    world: MicroWorld = key(
        "the micro-world that makes items, finetuning data and, when asked for, the base"
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        return _without_repeats(seeds, "seed")

    def recipe(self, name: str) -> dict:
        """The recipe as a plain mapping with every key in place."""
        return self.recipes[name].model_dump()

    @property
    def pretrained_here(self) -> bool:
        return self.base == "pretrain"


def _without_repeats(values: list, kind: str) -> list:
    again = sorted({value for value in values if values.count(value) > 1})
    if again:
        raise ValueError(f"{kind} {', '.join(map(str, again))} is named twice")
    return values


def _not_all_zero(weights: dict[str, int]) -> dict[str, int]:
    if not any(weights.values()):
        raise ValueError("one of them must be more than 0")
    return weights
