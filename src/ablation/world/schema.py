"""What the `world:` block of a study may say (ablation.schema has the rest)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from ablation.strict import Seed, Shape, Strict, key, leaves_some
from ablation.world.scenes import TASKS

Record = Literal[(*TASKS, "open")]
Text = Literal[(*TASKS, "statement", "register", "alpaca")]
Weight = Annotated[int, Field(ge=0)]


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


class Decoder(Shape):
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

    _leaves_training = field_validator("dev_percent")(leaves_some("eval_percent"))


def _not_all_zero(weights: dict[str, int]) -> dict[str, int]:
    if not any(weights.values()):
        raise ValueError("one of them must be more than 0")
    return weights
