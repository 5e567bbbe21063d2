"""What the `bridge:` block of a study may say (ablation.schema has the rest). No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ablation.bridge.prompts import DATA_SETS, MODES, REGIMES, SOURCE_FREE
from ablation.strict import (
    GroupedShape,
    Learning,
    NoLearning,
    Plateau,
    Seed,
    Strict,
    divides,
    key,
    leaves_some,
    stop_in_time,
    whole_micro_batches,
    without_repeats,
)

Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class Decoder(GroupedShape):
    embedding_std: float = key("wide embeddings make tokens distinct from the first step", gt=0)


class RandomModel(GroupedShape):
    """A decoder of random weights, for a rehearsal: its shape, and the class of the real one."""

    family: Literal["mistral", "llama"] = key("whose class it is")
    seed: Seed = key("weights and tokenizer")
    vocabulary: int = key("rows of the embeddings; the tokenizer may have fewer tokens", ge=512)


class Pretrain(Strict):
    seed: Seed = key("weights and texts")
    attempts: int = key("from the next seed, where the examination was not passed", ge=1)
    stop_accuracy: float = key("what passing means, of every skill", gt=0, le=1)
    threads: int = key("torch threads; bits may depend on it", ge=1)
    tokenizer_documents: int = key("texts that the tokenizer learns from", ge=1)
    vocabulary: int = key("tokens at most; bytes and special tokens are 259", ge=260)
    model: Decoder = key("a Llama decoder")
    lr_muon: float = key("matrices", gt=0)
    lr_adamw: float = key("embeddings and norms", gt=0)
    steps: int = key("all of them", ge=2)
    batch_documents: int = key("documents a step", ge=1)
    row_tokens: int = key("capacity of a packed row; no document may be longer", ge=64)
    warmup_steps: int = key("steps up to both learning rates", ge=1)
    cooldown_steps: int = key("to zero, at the end", ge=1)
    max_grad_norm: float = key("gradients are clipped to it", gt=0)


class QuestionWorld(Strict):
    seed: Seed = key("names, numbers and questions; frozen: nothing was chosen by what it gave")
    people: int = key("names whose numbers stand in the text", ge=2)
    stones: int = key("names whose numbers only the source has read", ge=10)
    listed: int = key("people in the text of a compression question", ge=2)
    asked: int = key("people it asks about", ge=1)
    test_percent: int = key("stones that only test questions ask about", ge=1, le=90)
    dev_percent: int = key("stones that only dev questions ask about", ge=1, le=90)

    @field_validator("listed")
    @classmethod
    def _lists_what_there_is(cls, listed: int, info: ValidationInfo) -> int:
        for names in ("people", "stones"):  # the source reads lists of stones
            if listed > info.data.get(names, listed):
                raise ValueError(f"there are only {info.data[names]} {names}")
        return listed

    @field_validator("asked")
    @classmethod
    def _asks_what_it_tells(cls, asked: int, info: ValidationInfo) -> int:
        if asked > info.data.get("listed", asked):
            raise ValueError(f"only {info.data['listed']} people are listed")
        return asked

    _leaves_training = field_validator("dev_percent")(leaves_some("test_percent"))


class Questions(Strict):
    train: int = key("questions that translators learn from", ge=2)
    dev: int = key("questions that choose the step", ge=1)
    test: int = key("questions that are reported, once", ge=2)


class DataSet(Strict):
    data: str = key(
        "hub data set named in pins | a folder of its .jsonl or .parquet files | generated: "
        "made-up texts at its lengths, a rehearsal",
        min_length=1,
    )
    seed: Seed = key("which questions are dev, and which are taken where there are more")
    train: int = key("questions that translators learn from, at most", ge=2)
    dev: int = key("questions that choose the step, of the data set's training questions", ge=1)
    test: int = key("questions that are reported, once; at most", ge=2)


class Translator(Strict):
    kind: Literal["resampler", "diffusion", "source_free"] = key(
        "gated cross-attention | a transformer along a rectified flow | learned tokens that read "
        "no source: a control"
    )
    width: int = key("of the translator", ge=2, multiple_of=2)
    depth: int = key("blocks", ge=1)
    heads: int = key("of attention; a divisor of width", ge=1)
    gate: float = key("what the resampler's tanh gates start from; 0 would hide the source")
    place: float = key("weight of a source token's place beside what it says", ge=0)
    dropout: float = key("while training", ge=0, lt=1)
    steps: int = key("Euler steps of the diffusion", ge=1)

    _divides = field_validator("heads")(divides("width"))


class Weights(Strict):
    kl: float = key("KL to the target that reads the question as text; 0: off", ge=0)
    kl_ramp: int = key("steps after the warm-up over which it comes in", ge=0)
    info_nce: float = key("contrast of soft tokens with the questions of the batch; 0: off", ge=0)
    temperature: float = key("of that contrast", gt=0)
    prompt_alignment: float = key("distance of soft tokens to the question's; 0: off", ge=0)
    flow: float = key("of the diffusion's velocity; 0: off", ge=0)


class Stops(Strict):
    no_learning: NoLearning | None = key("first logged loss minus the best; null: never")
    plateau: Plateau | None = key("early stopping on dev cross entropy; null: off")


class Recipe(Learning):
    """One kind of cell: the block `training` with the recipe's own keys on top."""

    regimes: list[Literal[(*REGIMES, *DATA_SETS)]] = key("where it is trained", min_length=1)
    soft_tokens: list[Count] = key("K: one cell each", min_length=1)
    swapped: bool = key("source and target change places")
    mode: Literal[MODES] = key("what the target reads beside the soft tokens, in training too")
    eos: bool = key("EOS is supervised, so that answers end: generation hygiene")
    controls: bool = key("shuffled, zero, mean and quantized soft tokens are evaluated too")
    audit: bool = key("also scored by the published evaluator that was shown the gold answer")
    noise_seeds: int = key("noises that a diffusion's test is repeated with", ge=1)
    translator: Translator = key("what turns source states into soft tokens")
    weights: Weights = key("of the losses; cross entropy has 1")
    batch_examples: int = key("questions an optimizer step", ge=2)
    micro_batch_examples: int = key("questions a forward; InfoNCE contrasts within it", ge=2)
    optimizer: Literal["adamw_torch", "adamw_torch_fused"] = key("as the Trainer names it")
    eval_steps: int = key("steps between two looks at dev", ge=1)
    eval_samples: int = key("dev questions at such a look", ge=1)
    eval_batch: int = key("questions a forward while answering: memory and speed only", ge=1)
    max_new_tokens: int = key("tokens that an answer may have", ge=1)
    stops: Stops = key("ends before max_steps")

    @field_validator("regimes", "soft_tokens")
    @classmethod
    def _distinct(cls, values: list, info: ValidationInfo) -> list:
        return without_repeats(values, info.field_name)

    _whole = field_validator("micro_batch_examples")(whole_micro_batches)
    _stop_in_time = field_validator("stops")(stop_in_time)

    @field_validator("eval_steps")
    @classmethod
    def _looks_in_time(cls, every: int, info: ValidationInfo) -> int:
        if every > info.data.get("max_steps", every):
            raise ValueError(f"beyond max_steps {info.data['max_steps']}: dev would choose nothing")
        return every


# What a cell is asked and how, and what it could resume from: none of it changes what is learned.
ASKED_ONLY = ("controls", "audit", "noise_seeds", "eval_batch", "save_steps")


class Inference(Strict):
    recipe: Name = key("whose translators are timed, in every regime")
    soft_tokens: Count = key("at this K")
    samples: int = key("test questions, one at a time", ge=1)
    warm_up: int = key("questions before the clock runs", ge=0)


class Claims(Strict):
    all_fixes: Name = key("the recipe that claims are made of")
    no_fixes: Name = key("what its stability is compared with")
    soft_tokens: Count = key("at this K")
    p: float = key("a claim needs a two-sided p below this", gt=0, lt=1)
    same_within: float = key("accuracies that differ by no more count as one", gt=0, lt=1)
    share_of_target: float = key(
        "what compression must keep of target-alone at the largest K", gt=0
    )
    final_accuracy: float = key("what the published claim of stability asks of the last step", gt=0)


class Bridge(Strict):
    source: str = key(
        "shipped | pretrain | random | a checkpoint's folder | a hub model (owner/name) that is "
        "named in pins",
        min_length=1,
    )
    target: str = key("as source", min_length=1)
    chat: bool = key("prompts are turns of each model's own chat template, in every arm alike")
    layer: int = key("the source's hidden states that translators read; -1: the last")
    max_tokens: int = key("of a question; a longer one is an error, none is cut", ge=8)
    teacher_top: int = key("likeliest tokens whose log-probabilities are kept for KL", ge=1)
    seeds: list[Seed] = key("of weights, order and noise; frozen, as the world's", min_length=1)
    questions: Questions | None = key("of each regime of the micro bridge's world; null: none")
    world: QuestionWorld | None = key("the micro bridge's own questions; null: none")
    data: dict[Literal[DATA_SETS], DataSet] = key("where the questions of other regimes come from")
    random: dict[Literal["source", "target"], RandomModel] = key("only under `random`: a rehearsal")
    pretrain: dict[Literal["source", "target"], Pretrain] = key("only under `pretrain`")
    training: Recipe = key("what every recipe shares")
    recipes: dict[Name, Recipe] = key("each differs from `training` in something", min_length=1)
    inference: Inference = key("what the five arms cost")
    claims: Claims = key("what the claims table asks")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        return without_repeats(seeds, "seed")

    @field_validator("recipes")
    @classmethod
    def _have_questions(cls, recipes: dict[str, Recipe], info: ValidationInfo):
        """Every regime that is trained somewhere has questions somewhere."""
        if not {"world", "questions", "data"} <= info.data.keys():
            return recipes
        own = REGIMES if info.data["world"] and info.data["questions"] else ()
        for name, recipe in recipes.items():
            for regime in recipe.regimes:
                if regime not in own and regime not in info.data["data"]:
                    place = f"data.{regime}" if regime in DATA_SETS else "world and questions"
                    raise ValueError(f"{name} is trained on {regime}, but there is no {place}")
        return recipes

    @field_validator("recipes")
    @classmethod
    def _answer_as_long(cls, recipes: dict[str, Recipe], info: ValidationInfo):
        """The models alone are asked once, for all recipes."""
        shared = info.data.get("training")
        for name, recipe in recipes.items():
            if shared and recipe.max_new_tokens != shared.max_new_tokens:
                raise ValueError(
                    f"answers of {name} may have {recipe.max_new_tokens} tokens (max_new_tokens), "
                    f"those of the models alone {shared.max_new_tokens}: say it under `training`"
                )
        return recipes

    @field_validator("recipes")
    @classmethod
    def _differ(cls, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
        """Two names for one configuration would measure noise and be read as an effect."""
        seen: dict[tuple, str] = {}
        for name, recipe in recipes.items():
            for cell in cells_of(recipe):
                other = seen.setdefault(cell, name)
                if other != name:
                    raise ValueError(f"{name} and {other} are one configuration: no ablation")
        return recipes

    @field_validator("inference")
    @classmethod
    def _times_what_is_trained(cls, asked: Inference, info: ValidationInfo) -> Inference:
        recipes = info.data.get("recipes", {})
        for regime in {r for recipe in recipes.values() for r in recipe.regimes}:
            _needs(recipes, asked.recipe, regime, [asked.soft_tokens])
            _forward(recipes, asked.recipe)
        return asked

    @field_validator("claims")
    @classmethod
    def _claims_what_is_trained(cls, claims: Claims, info: ValidationInfo) -> Claims:
        recipes, name = info.data.get("recipes", {}), claims.all_fixes
        for regime in recipes[name].regimes if name in recipes else ("any regime",) * bool(recipes):
            _needs(recipes, name, regime, [claims.soft_tokens])
            _needs(recipes, claims.no_fixes, regime, [claims.soft_tokens])
            _needs(recipes, SOURCE_FREE, regime, recipes[name].soft_tokens)
            for compared in (name, claims.no_fixes, SOURCE_FREE):
                _forward(recipes, compared)
            if recipes[name].mode != "soft_only":
                raise ValueError(
                    f"recipe {name} is {recipes[name].mode}: its target reads the question too, so "
                    "that nothing is compressed and no bridge is tested; claim a soft_only one"
                )
            if not recipes[name].controls:
                raise ValueError(f"recipe {name} needs `controls: true`: claims rest on them")
        return claims

    @field_validator("random")
    @classmethod
    def _have_shapes(cls, random: dict[str, RandomModel], info: ValidationInfo):
        for role in ("source", "target"):
            if info.data.get(role) == "random" and role not in random:
                raise ValueError(f"no shape of the {role} (bridge.{role}: random)")
        return random

    @property
    def rehearsal(self) -> bool:
        """Whether weights or texts are made up, so that accuracies mean nothing."""
        made_up = any(own.data == "generated" for own in self.data.values())
        return made_up or "random" in (self.source, self.target)

    def recipe(self, name: str) -> dict[str, Any]:
        """What decides a cell of this recipe, but for regime, K and seed."""
        return self.recipes[name].model_dump(exclude={"regimes", "soft_tokens"})


def _needs(recipes: dict[str, Recipe], name: str, regime: str, budgets: list[int]) -> None:
    """Raise ValueError unless `name` is trained in `regime` at every K of `budgets`."""
    found = recipes.get(name)
    lacking = [k for k in budgets if found and k not in found.soft_tokens]
    if not found or regime not in found.regimes or lacking:
        at = f" at K = {', '.join(map(str, lacking or budgets))}"
        raise ValueError(f"no recipe {name} is trained in {regime}{at}: tables compare with it")


def _forward(recipes: dict[str, Recipe], name: str) -> None:
    """Raise ValueError where source and target of a recipe have changed places."""
    if recipes[name].swapped:
        raise ValueError(f"recipe {name} is swapped: the arms that it is compared with are not")


def cells_of(recipe: Recipe) -> list[tuple]:
    """What tells the cells of a recipe from those of any other."""
    own = repr(_working(recipe))
    return [(regime, k, own) for regime in recipe.regimes for k in recipe.soft_tokens]


def _working(recipe: Recipe) -> dict[str, Any]:
    """The keys that decide what this recipe learns: not those of terms and kinds it has not."""
    found = recipe.model_dump(exclude={"regimes", "soft_tokens", *ASKED_ONLY})
    weights, translator = found["weights"], found["translator"]
    kind, without = translator["kind"], set()
    if kind != "diffusion":
        without |= {"flow", "steps"}
    if kind != "resampler":
        without |= {"gate"}
    if kind == SOURCE_FREE:  # its tokens stand there whole, and know no question to be like
        without |= {"info_nce", "prompt_alignment", *translator} - {"kind"}
    if kind == SOURCE_FREE or not weights["info_nce"]:
        without |= {"temperature"}
    if not weights["kl"]:
        without |= {"kl_ramp"}
    for part in (weights, translator):
        for name in without & part.keys():
            del part[name]
    return found
