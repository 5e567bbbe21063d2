"""The `world:` block, the micro-world that items and texts are generated from; and `random:`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from ablation.config.fields import (
    GroupedShape,
    OneOf,
    Seed,
    Shape,
    Strict,
    described_field,
    leaves_some,
)
from ablation.vocabulary.micro_families import FAMILIES
from ablation.vocabulary.micro_tasks import TASKS

Record = Annotated[str, OneOf((*TASKS, "open", *FAMILIES))]
Text = Annotated[str, OneOf((*TASKS, "statement", "register", "alpaca"))]
Weight = Annotated[int, Field(ge=0)]


class Items(Strict):
    """The items that the study is scored on."""

    seed: Seed = described_field("Seed of the draw of items.")
    count: int = described_field("Number of items of each task.", ge=1)


class Finetuning(Strict):
    """The instruction records that recipes are trained on."""

    seed: Seed = described_field("Seed of the draw of records.")
    count: int = described_field(
        "Number of records; a finetuning of 250 steps reads three quarters of 8,000.", ge=2
    )
    weights: dict[Record, Weight] = described_field(
        "How often each kind of record occurs. Tasks that recover slowly occur more often; half of "
        "the records are open-ended, as in real instruction data."
    )

    @field_validator("weights")
    @classmethod
    def _has_a_weight(cls, weights: dict[str, int]) -> dict[str, int]:
        return not_all_zero(weights)


class Tokenizer(Strict):
    """The size of the micro base's tokenizer."""

    documents: int = described_field("Number of texts that the tokenizer is trained on.", ge=1)
    vocabulary: int = described_field(
        "Largest number of tokens; bytes and special tokens already take 259.", ge=260
    )


class Decoder(Shape):
    """The size of the micro base."""

    embedding_std: float = described_field(
        "Standard deviation of the initial embeddings. A large one makes tokens distinct from the "
        "first step, so that the model learns sooner which name has which attribute.",
        gt=0,
    )


class Primer(Strict):
    """How long pretraining reads only lists, which teach which name has which attribute."""

    alone_until: int = described_field("Step up to which batches hold only primer texts.", ge=0)
    faded_at: int = described_field(
        "Step at which the share of primer texts has fallen to `kept_share`.", ge=1
    )
    kept_share: float = described_field(
        "Share of primer texts in a batch from then on.", ge=0, le=1
    )

    @field_validator("faded_at")
    @classmethod
    def _fades(cls, faded: int, info: ValidationInfo) -> int:
        if faded <= info.data.get("alone_until", -1):
            raise ValueError(f"must come after alone_until {info.data['alone_until']}")
        return faded


class Check(Strict):
    """When pretraining measures its accuracy on development items."""

    items: int = described_field("Number of development items of each task.", ge=1)
    from_step: int = described_field("Step of the first check.", ge=1)
    every: int = described_field("Steps between two checks.", ge=1)


class Pretrain(Strict):
    """How the micro base is pretrained."""

    seed: Seed = described_field("Seed of the weights and texts.")
    attempts: int = described_field(
        "Number of attempts. Each further one uses the next seed; it is made only if a task was "
        "not learned.",
        ge=1,
    )
    threads: int = described_field(
        "Number of torch threads; the last bits of results may depend on it.", ge=1
    )
    documents: dict[Text, Weight] = described_field(
        "How often each kind of text occurs; two-hop questions are learned last and occur most."
    )
    tokenizer: Tokenizer = described_field(
        "The byte-level BPE tokenizer, which is trained on the same kinds of texts."
    )
    model: Decoder = described_field("Size of the base, a Ministral-3 decoder.")
    lr_muon: float = described_field("Learning rate of Muon, for matrices.", gt=0)
    lr_adamw: float = described_field("Learning rate of AdamW, for embeddings and norms.", gt=0)
    rate_after_primer: float = described_field(
        "Factor on both learning rates after the primer.", gt=0
    )
    warmup_steps: int = described_field(
        "Steps in which both learning rates rise to their peak.", ge=1
    )
    max_steps: int = described_field("Largest number of steps of an attempt.", ge=2)
    cooldown_steps: int = described_field(
        "Steps in which both learning rates fall to zero, once every task is learned.", ge=1
    )
    max_grad_norm: float = described_field("Norm to which gradients are clipped.", gt=0)
    stop_accuracy: float = described_field(
        "Accuracy on a task's development items from which the task counts as learned.", gt=0, le=1
    )
    batch_documents: int = described_field("Number of documents in a step.", ge=1)
    row_tokens: int = described_field(
        "Capacity of a packed row in tokens; no document may be longer.", ge=64
    )
    primer: Primer = described_field("Texts that are read first, with their steps.")
    check: Check = described_field("When accuracy is measured on development items.")

    @field_validator("documents")
    @classmethod
    def _has_a_weight(cls, documents: dict[str, int]) -> dict[str, int]:
        return not_all_zero(documents)

    @field_validator("max_steps")
    @classmethod
    def _warms_up_in_time(cls, last: int, info: ValidationInfo) -> int:
        if last <= info.data.get("warmup_steps", 0):
            raise ValueError(f"must be more than warmup_steps {info.data['warmup_steps']}")
        return last

    @field_validator("check")
    @classmethod
    def _checks_in_time(cls, check: Check, info: ValidationInfo) -> Check:
        last, cooldown = info.data.get("max_steps"), info.data.get("cooldown_steps")
        if last and cooldown and check.from_step + cooldown >= last:
            raise ValueError(
                f"from_step {check.from_step} and cooldown_steps {cooldown} leave no step of "
                f"max_steps {last}: nothing could ever count as learned"
            )
        return check


class MicroWorld(Strict):
    """The micro-world, its split, and what is generated from it."""

    seed: Seed = described_field(
        "Seed of the facts and of the split of scenes. All seeds of this block are fixed: none was "
        "chosen by its results."
    )
    eval_percent: int = described_field(
        "Percentage of scenes that only the reported items ask about.", ge=1, le=98
    )
    dev_percent: int = described_field(
        "Percentage of scenes that only pretraining's own checks ask about.", ge=1, le=98
    )
    items: Items = described_field("The items that the study is scored on.")
    finetuning: Finetuning = described_field("The Alpaca records, made from training scenes.")
    pretrain: Pretrain = described_field(
        "How the base is pretrained; used only with `base: pretrain`."
    )

    _leaves_training = field_validator("dev_percent")(leaves_some("eval_percent"))


def not_all_zero(weights: dict[str, int]) -> dict[str, int]:
    if not any(weights.values()):
        raise ValueError("one of them must be more than 0")
    return weights


class RandomBase(GroupedShape):
    """A base with random weights."""

    seed: Seed = described_field("Seed of the weights and texts.")
    vocabulary: int = described_field(
        "Rows of the embeddings; the tokenizer may have fewer tokens.", ge=512
    )
