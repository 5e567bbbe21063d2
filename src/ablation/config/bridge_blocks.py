"""The blocks of a `bridge:` configuration: models, questions, recipes, inference and claims."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from ablation.config.fields import (
    GroupedShape,
    Item,
    Learning,
    NoLearning,
    OneOf,
    Plateau,
    Seed,
    Strict,
    described_field,
    divides,
    leaves_some,
    stop_in_time,
    whole_micro_batches,
    without_repeats,
)
from ablation.vocabulary.bridge import BARS, DATA_SETS, MODES, QUERY_AGNOSTIC, REGIMES

Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class Decoder(GroupedShape):
    """The size of a micro source or target."""

    embedding_std: float = described_field(
        "Standard deviation of the initial embeddings; a large one makes tokens distinct from the "
        "first step.",
        gt=0,
    )


class RandomModel(GroupedShape):
    """A decoder with random weights, for a rehearsal: its size, and the class of the real model."""

    family: Literal["mistral", "llama"] = described_field("Model class.")
    seed: Seed = described_field("Seed of the weights and of the tokenizer.")
    vocabulary: int = described_field(
        "Rows of the embeddings; the tokenizer may have fewer tokens.", ge=512
    )


class Pretrain(Strict):
    """How a micro source or target is pretrained."""

    seed: Seed = described_field("Seed of the weights and texts.")
    attempts: int = described_field(
        "Number of attempts. Each further one uses the next seed; it is made only if a skill was "
        "not learned.",
        ge=1,
    )
    stop_accuracy: float = described_field(
        "Accuracy from which a skill counts as learned.", gt=0, le=1
    )
    threads: int = described_field(
        "Number of torch threads; the last bits of results may depend on it.", ge=1
    )
    tokenizer_documents: int = described_field(
        "Number of texts that the tokenizer is trained on.", ge=1
    )
    vocabulary: int = described_field(
        "Largest number of tokens; bytes and special tokens already take 259.", ge=260
    )
    model: Decoder = described_field("Size of the model, a Llama decoder.")
    lr_muon: float = described_field("Learning rate of Muon, for matrices.", gt=0)
    lr_adamw: float = described_field("Learning rate of AdamW, for embeddings and norms.", gt=0)
    steps: int = described_field("Number of steps.", ge=2)
    batch_documents: int = described_field("Number of documents in a step.", ge=1)
    row_tokens: int = described_field(
        "Capacity of a packed row in tokens; no document may be longer.", ge=64
    )
    warmup_steps: int = described_field(
        "Steps in which both learning rates rise to their peak.", ge=1
    )
    cooldown_steps: int = described_field(
        "Last steps, in which both learning rates fall to zero.", ge=1
    )
    max_grad_norm: float = described_field("Norm to which gradients are clipped.", gt=0)


class QuestionWorld(Strict):
    """The names and numbers that the micro bridge's questions are made of."""

    seed: Seed = described_field(
        "Seed of the names and numbers. It is fixed: it was not chosen by its results."
    )
    people: int = described_field("Number of names whose numbers are in the text.", ge=2)
    stones: int = described_field("Number of names whose numbers only the source has read.", ge=10)
    listed: int = described_field("Number of people in the text of a compression question.", ge=2)
    asked: int = described_field("Number of people that such a question asks about.", ge=1)
    test_percent: int = described_field(
        "Percentage of stones that only test questions ask about.", ge=1, le=90
    )
    dev_percent: int = described_field(
        "Percentage of stones that only dev questions ask about.", ge=1, le=90
    )

    @field_validator("listed")
    @classmethod
    def _lists_existing_names(cls, listed: int, info: ValidationInfo) -> int:
        for names in ("people", "stones"):  # the source reads lists of stones
            if listed > info.data.get(names, listed):
                raise ValueError(f"there are only {info.data[names]} {names}")
        return listed

    @field_validator("asked")
    @classmethod
    def _asks_about_listed_people(cls, asked: int, info: ValidationInfo) -> int:
        if asked > info.data.get("listed", asked):
            raise ValueError(f"only {info.data['listed']} people are listed")
        return asked

    _leaves_training = field_validator("dev_percent")(leaves_some("test_percent"))


class Questions(Strict):
    """How many questions of each regime of the micro bridge's world there are."""

    seed: Seed = described_field(
        "Seed of the questions, and of the stones of each split. Every freeze has a new one."
    )
    train: int = described_field("Number of questions that translators are trained on.", ge=2)
    train_contexts: int = described_field(
        "Number of training questions of `query_agnostic`. It needs more of them: a whole context "
        "is to be kept, and each question asks about a part of it.",
        ge=2,
    )
    dev: int = described_field("Number of questions that choose the step.", ge=1)
    test: int = described_field("Number of questions that are reported, once.", ge=2)

    def count(self, regime: str, split: str) -> int:
        """The number of questions of one split of a regime."""
        own = "train_contexts" if (regime, split) == (QUERY_AGNOSTIC, "train") else split
        return int(getattr(self, own))


class DataSet(Strict):
    """Questions of one regime, read from a public data set."""

    data: str = described_field(
        "A hub data set that is named in `pins`, a folder with its .jsonl or .parquet files, or "
        "`generated`: made-up texts with its lengths, for a rehearsal.",
        min_length=1,
    )
    seed: Seed = described_field(
        "Seed that chooses the dev questions, and the questions that are used if there are more."
    )
    train: int = described_field(
        "Largest number of questions that translators are trained on.", ge=2
    )
    dev: int = described_field(
        "Number of questions that choose the step; they are taken from the training questions.",
        ge=1,
    )
    test: int = described_field("Largest number of questions that are reported, once.", ge=2)


class Translator(Strict):
    """The network that turns hidden states of the source into soft tokens for the target."""

    kind: Literal["resampler", "diffusion", "source_free"] = described_field(
        "`resampler` is gated cross-attention, `diffusion` a transformer along a rectified flow, "
        "and `source_free` a control: learned soft tokens that do not depend on the source."
    )
    width: int = described_field("Width of the translator.", ge=2, multiple_of=2)
    depth: int = described_field("Number of blocks.", ge=1)
    heads: int = described_field("Number of attention heads; it must divide `width`.", ge=1)
    gate: float = described_field(
        "Initial value of the resampler's tanh gates; 0 would hide the source at first."
    )
    place: float = described_field("Weight of a source token's position beside its content.", ge=0)
    dropout: float = described_field("Dropout while training.", ge=0, lt=1)
    steps: int = described_field("Number of Euler steps of the diffusion.", ge=1)

    _divides = field_validator("heads")(divides("width"))


class Weights(Strict):
    """The weights of the terms of the loss."""

    kl: float = described_field(
        "Weight of the KL divergence to the target that reads the question as text; 0 leaves it "
        "out.",
        ge=0,
    )
    kl_ramp: int = described_field(
        "Steps after the warm-up in which that weight rises from 0.", ge=0
    )
    info_nce: float = described_field(
        "Weight of InfoNCE, which contrasts soft tokens with the questions of the batch; 0 leaves "
        "it out.",
        ge=0,
    )
    temperature: float = described_field("Temperature of InfoNCE.", gt=0)
    prompt_alignment: float = described_field(
        "Weight of the distance of soft tokens to the embeddings of the question; 0 leaves it out.",
        ge=0,
    )
    flow: float = described_field(
        "Weight of the loss of the diffusion's velocity; 0 leaves it out.", ge=0
    )


class Stops(Strict):
    """The rules that can end the training of a cell before its last step."""

    no_learning: NoLearning | None = described_field(
        "Stops a training whose loss does not fall; null never does."
    )
    plateau: Plateau | None = described_field(
        "Stops a training whose cross entropy on dev no longer falls; null never does."
    )


class Recipe(Learning):
    """One kind of cell: the block `training`, overridden by the recipe's own keys."""

    regimes: list[Annotated[str, OneOf((*REGIMES, *DATA_SETS))]] = described_field(
        "Regimes in which the recipe is trained.", min_length=1
    )
    soft_tokens: list[Count] = described_field(
        "Numbers K of soft tokens; each is one cell.", min_length=1
    )
    swapped: bool = described_field("Whether source and target change places.")
    mode: Annotated[str, OneOf(MODES)] = described_field(
        "What the target reads beside the soft tokens, while training too."
    )
    eos: bool = described_field(
        "Whether the end-of-sequence token is supervised, so that generated answers end."
    )
    controls: bool = described_field(
        "Whether shuffled, zero, mean and quantized soft tokens are evaluated too."
    )
    audit: bool = described_field(
        "Whether the published evaluator, which was shown the gold answer, scores the cell too."
    )
    noise_seeds: int = described_field(
        "Number of noises with which a diffusion's test is repeated.", ge=1
    )
    translator: Translator = described_field(
        "The network that turns hidden states of the source into soft tokens."
    )
    weights: Weights = described_field(
        "Weights of the terms of the loss; cross entropy has weight 1."
    )
    batch_examples: int = described_field("Number of questions in an optimizer step.", ge=2)
    micro_batch_examples: int = described_field(
        "Number of questions in a forward pass; InfoNCE contrasts within it.", ge=2
    )
    optimizer: Literal["adamw_torch", "adamw_torch_fused"] = described_field(
        "Optimizer, under its name in transformers' Trainer."
    )
    eval_steps: int = described_field("Steps between two evaluations on dev questions.", ge=1)
    eval_samples: int = described_field("Number of dev questions of an evaluation.", ge=1)
    eval_batch: int = described_field(
        "Number of questions that are answered at once; it affects memory and speed only.", ge=1
    )
    max_new_tokens: int = described_field("Largest number of tokens of an answer.", ge=1)
    stops: Stops = described_field("Rules that end a training before `max_steps`.")

    @field_validator("regimes", "soft_tokens")
    @classmethod
    def _distinct(cls, values: list[Item], info: ValidationInfo) -> list[Item]:
        return without_repeats(values, str(info.field_name))

    _whole_micro_batches = field_validator("micro_batch_examples")(whole_micro_batches)
    _stop_in_time = field_validator("stops")(stop_in_time)

    @field_validator("eval_steps")
    @classmethod
    def _evaluates_in_time(cls, every: int, info: ValidationInfo) -> int:
        if every > info.data.get("max_steps", every):
            raise ValueError(f"beyond max_steps {info.data['max_steps']}: dev would choose nothing")
        return every


# Keys of how a cell is evaluated and of its checkpoints: none of them changes what is learned.
EVALUATION_KEYS = ("controls", "audit", "noise_seeds", "eval_batch", "save_steps")


class Inference(Strict):
    """How the arms are timed."""

    recipe: Name = described_field("Recipe whose translators are timed, in every regime.")
    soft_tokens: Count = described_field("Number K of soft tokens.")
    samples: int = described_field("Number of test questions, answered one at a time.", ge=1)
    warm_up: int = described_field("Number of questions before the clock runs.", ge=0)


class Claims(Strict):
    """When the table of claims counts a published claim as confirmed."""

    all_fixes: Name = described_field("Recipe that the claims are about.")
    no_fixes: Name = described_field("Recipe that its stability is compared with.")
    soft_tokens: Count = described_field("Number K of soft tokens.")
    context_recipe: Name = described_field(
        "Recipe that the claim of compression is about, in query-agnostic regimes."
    )
    context_soft_tokens: Count = described_field("Number K of soft tokens of that claim.")
    p: float = described_field("Two-sided p value below which a claim holds.", gt=0, lt=1)
    same_within: float = described_field(
        "Largest difference of accuracies that count as equal.", gt=0, lt=1
    )
    share_of_target: float = described_field(
        "Share of the accuracy of target-alone that compression must keep at the largest K.", gt=0
    )
    final_accuracy: float = described_field(
        "Accuracy at the last step that the published claim of stability needs.", gt=0
    )


class FrozenCell(Strict):
    """A primary cell of a regime, and the bar that it must pass on every seed."""

    soft_tokens: Count = described_field("Number K of soft tokens.")
    bar: Annotated[str, OneOf(BARS)] = described_field(
        "`keeps_target`: at least `claims.share_of_target` of target-alone's accuracy; "
        "`beats_both`: better than each model alone, with p below `claims.p`."
    )


class Freeze(Strict):
    """The cells that decide about the recipe of the claims; all of them must pass."""

    seeds: list[Seed] = described_field(
        "Seeds of the primary cells. They include the seeds of all recipes, and are fixed before "
        "any of their results is seen.",
        min_length=1,
    )
    cells: dict[Annotated[str, OneOf((*REGIMES, *DATA_SETS))], FrozenCell] = described_field(
        "The primary cell of each regime that has one, of the recipe that the claims are about."
    )
    bad_share: float = described_field(
        "Share of bad cells for which the table gives the chance that a recipe passes.", gt=0, lt=1
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        return without_repeats(seeds, "seed")
