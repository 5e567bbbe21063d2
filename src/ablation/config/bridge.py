"""The `bridge:` block of a study's configuration. This module does not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ValidationInfo, field_validator

from ablation.config.bridge_blocks import (
    EVALUATION_KEYS,
    Claims,
    DataSet,
    Freeze,
    Inference,
    Name,
    Pretrain,
    Questions,
    QuestionWorld,
    RandomModel,
    Recipe,
)
from ablation.config.fields import (
    OneOf,
    Seed,
    Strict,
    described_field,
    without_repeats,
)
from ablation.vocabulary.bridge import AGNOSTIC, DATA_SETS, REGIMES, SOURCE_FREE


class Bridge(Strict):
    """The second study."""

    source: str = described_field(
        "The model that reads: `shipped`, `pretrain`, `random`, the folder of a checkpoint, or a "
        "hub model (owner/name) that is named in `pins`.",
        min_length=1,
    )
    target: str = described_field(
        "The model that answers; the same values as for `source`.", min_length=1
    )
    chat: bool = described_field(
        "Whether prompts are turns in each model's own chat template, in all arms alike."
    )
    layer: int = described_field(
        "Layer of the source whose hidden states translators read; -1 is the last."
    )
    max_tokens: int = described_field(
        "Largest number of tokens of a question. A longer question is an error; none is cut.", ge=8
    )
    teacher_top: int = described_field(
        "Number of most likely tokens whose log-probabilities are kept for the KL divergence.",
        ge=1,
    )
    seeds: list[Seed] = described_field(
        "Seeds of weights, data order and noise. They are fixed, like the seed of the world.",
        min_length=1,
    )
    questions: Questions | None = described_field(
        "Number of questions of each regime of the micro bridge's world; null has none."
    )
    world: QuestionWorld | None = described_field(
        "The world of the micro bridge's own questions; null has none."
    )
    data: dict[Annotated[str, OneOf(DATA_SETS)], DataSet] = described_field(
        "Data sets of the other regimes."
    )
    random: dict[Literal["source", "target"], RandomModel] = described_field(
        "Sizes of random models; used only with `random`, for a rehearsal."
    )
    pretrain: dict[Literal["source", "target"], Pretrain] = described_field(
        "How the models are pretrained; used only with `pretrain`."
    )
    training: Recipe = described_field("Training keys that all recipes share.")
    recipes: dict[Name, Recipe] = described_field(
        "The recipes; each differs from `training` in some key.", min_length=1
    )
    inference: Inference = described_field("How the cost of the arms is measured.")
    claims: Claims = described_field("When a published claim counts as confirmed.")
    freeze: Freeze | None = described_field(
        "Primary cells on further seeds, each of which must pass its bar; null has none."
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        return without_repeats(seeds, "seed")

    @field_validator("recipes")
    @classmethod
    def _have_questions(cls, recipes: dict[str, Recipe], info: ValidationInfo) -> dict[str, Recipe]:
        """Raise ValueError if a regime that a recipe is trained in has no questions."""
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
    def _answer_as_long(cls, recipes: dict[str, Recipe], info: ValidationInfo) -> dict[str, Recipe]:
        """Raise ValueError if answers of a recipe may be longer than those of the models alone.

        The models alone answer each question once, for all recipes.
        """
        shared = info.data.get("training")
        for name, recipe in recipes.items():
            if shared and recipe.max_new_tokens != shared.max_new_tokens:
                raise ValueError(
                    f"answers of {name} may have {recipe.max_new_tokens} tokens (max_new_tokens), "
                    f"those of the models alone {shared.max_new_tokens}: set it under `training`"
                )
        return recipes

    @field_validator("recipes")
    @classmethod
    def _differ(cls, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
        """Raise ValueError if two recipes have a cell in common.

        Their difference would be noise, and be read as an effect.
        """
        seen: dict[tuple, str] = {}
        for name, recipe in recipes.items():
            for cell in cells_of(recipe):
                other = seen.setdefault(cell, name)
                if other != name:
                    raise ValueError(f"{name} and {other} are one configuration: no ablation")
        return recipes

    @field_validator("inference")
    @classmethod
    def _times_trained_cells(cls, inference: Inference, info: ValidationInfo) -> Inference:
        recipes = info.data.get("recipes", {})
        for regime in sorted({r for recipe in recipes.values() for r in recipe.regimes}):
            _require_cells(recipes, inference.recipe, regime, [inference.soft_tokens])
            _require_unswapped(recipes, inference.recipe)
        return inference

    @field_validator("claims")
    @classmethod
    def _compares_trained_cells(cls, claims: Claims, info: ValidationInfo) -> Claims:
        recipes, name = info.data.get("recipes", {}), claims.all_fixes
        for regime in recipes[name].regimes if name in recipes else ("any regime",) * bool(recipes):
            _require_cells(recipes, name, regime, [claims.soft_tokens])
            _require_cells(recipes, claims.no_fixes, regime, [claims.soft_tokens])
            _require_cells(recipes, SOURCE_FREE, regime, recipes[name].soft_tokens)
            about = [name]
            if regime in AGNOSTIC:
                about.append(claims.context_recipe)
                _require_cells(recipes, about[1], regime, [claims.context_soft_tokens])
            for compared in (*about, claims.no_fixes, SOURCE_FREE):
                _require_unswapped(recipes, compared)
            for own in about:
                if recipes[own].mode != "soft_only":
                    raise ValueError(
                        f"recipe {own} is {recipes[own].mode}: its target reads the question too, "
                        "so that nothing is compressed; name a recipe that is soft_only"
                    )
                if not recipes[own].controls:
                    raise ValueError(f"recipe {own} needs `controls: true`: claims rest on them")
        return claims

    @field_validator("freeze")
    @classmethod
    def _freezes_trained_cells(cls, freeze: Freeze | None, info: ValidationInfo) -> Freeze | None:
        claims, recipes = info.data.get("claims"), info.data.get("recipes", {})
        if freeze is None or claims is None:
            return freeze
        if lacking := sorted(set(info.data.get("seeds", ())) - set(freeze.seeds)):
            raise ValueError(f"its seeds lack {', '.join(map(str, lacking))} of bridge.seeds")
        for regime, cell in freeze.cells.items():
            _require_cells(recipes, claims.all_fixes, regime, [cell.soft_tokens])
        return freeze

    @field_validator("random")
    @classmethod
    def _have_shapes(
        cls, random: dict[str, RandomModel], info: ValidationInfo
    ) -> dict[str, RandomModel]:
        for role in ("source", "target"):
            if info.data.get(role) == "random" and role not in random:
                raise ValueError(f"no shape of the {role} (bridge.{role}: random)")
        return random

    @property
    def rehearsal(self) -> bool:
        """Whether weights or texts are made up, so that accuracies mean nothing."""
        made_up = any(own.data == "generated" for own in self.data.values())
        return made_up or "random" in (self.source, self.target)

    def seeds_of(self, regime: str) -> list[int]:
        """The seeds of a regime's cells: those of all recipes, then those of the freeze alone."""
        frozen = self.freeze.seeds if self.freeze and regime in self.freeze.cells else []
        return [*self.seeds, *(seed for seed in frozen if seed not in self.seeds)]

    def cells_of(self, regime: str, seed: int) -> dict[str, dict[str, Any]]:
        """{recipe: its keys and its K} of a regime and seed.

        A seed of the freeze alone has only the regime's primary cell, without controls.
        """
        if seed in self.seeds or self.freeze is None:
            chosen = {n: r.soft_tokens for n, r in self.recipes.items() if regime in r.regimes}
            return {name: self.recipe(name) | {"soft_tokens": k} for name, k in chosen.items()}
        name, k = self.claims.all_fixes, self.freeze.cells[regime].soft_tokens
        return {name: self.recipe(name) | {"soft_tokens": [k], "controls": False}}

    def recipe(self, name: str) -> dict[str, Any]:
        """The keys that decide a cell of this recipe, apart from its regime, K and seed."""
        return self.recipes[name].model_dump(exclude={"regimes", "soft_tokens"})


def _require_cells(recipes: dict[str, Recipe], name: str, regime: str, budgets: list[int]) -> None:
    """Raise ValueError unless `name` is trained in `regime` at every K of `budgets`."""
    found = recipes.get(name)
    lacking = [k for k in budgets if found and k not in found.soft_tokens]
    if not found or regime not in found.regimes or lacking:
        at = f" at K = {', '.join(map(str, lacking or budgets))}"
        raise ValueError(f"no recipe {name} is trained in {regime}{at}, but tables compare with it")


def _require_unswapped(recipes: dict[str, Recipe], name: str) -> None:
    """Raise ValueError if source and target of a recipe have changed places."""
    if recipes[name].swapped:
        raise ValueError(f"recipe {name} is swapped: the arms that it is compared with are not")


def cells_of(recipe: Recipe) -> list[tuple]:
    """One tuple for each cell of a recipe; recipes with a tuple in common train the same cell."""
    own = repr(_keys_in_use(recipe))
    return [(regime, k, own) for regime in recipe.regimes for k in recipe.soft_tokens]


def _keys_in_use(recipe: Recipe) -> dict[str, Any]:
    """The keys that decide what a recipe learns.

    Keys of losses with weight 0 and of other kinds of translators are left out.
    """
    found = recipe.model_dump(exclude={"regimes", "soft_tokens", *EVALUATION_KEYS})
    weights, translator = found["weights"], found["translator"]
    kind = translator["kind"]
    without: set[str] = set()
    if kind != "diffusion":
        without |= {"flow", "steps"}
    if kind != "resampler":
        without |= {"gate"}
    if kind == SOURCE_FREE:  # its soft tokens are the same for all questions
        without |= {"info_nce", "prompt_alignment", *translator} - {"kind"}
    if kind == SOURCE_FREE or not weights["info_nce"]:
        without |= {"temperature"}
    if not weights["kl"]:
        without |= {"kl_ramp"}
    for part in (weights, translator):
        for name in without & part.keys():
            del part[name]
    return found
