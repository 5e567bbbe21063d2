"""The recipes of the first study, and the names of their variants.

A recipe is a named training configuration from a closed set. A variant is a recipe with other
values, for a sweep. Its name is the recipe's name, a hyphen, and a word of its own: `3B-lr1e-4`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SHORT_STAGE, LONG_STAGE = "stage3_finetune", "stage5_longrun"  # the stages that finetune


@dataclass(frozen=True)
class Recipe:
    """A finetuning: the mask of its training, the stage that runs it, and a note for reports."""

    name: str
    train_mask: str
    stage: str
    note: str


_TABLE = (
    Recipe("3A", "causal", SHORT_STAGE, "the causal control: trains as the base was trained"),
    Recipe("3B", "prefill_bidir", SHORT_STAGE, "prefix LM: bidirectional prompt, causal response"),
    Recipe(
        "3B-leaky",
        "full_bidir",
        SHORT_STAGE,
        "every token sees its own target; kept to show the effect of the leak",
    ),
    Recipe(
        "5A",
        "prefill_bidir",
        LONG_STAGE,
        "stage 5: 3B again from the base, for longer, until its held-out loss stalls",
    ),
    Recipe("5B", "prefill_bidir", LONG_STAGE, "stage 5: as 5A, with more patience"),
    Recipe("5C", "prefill_bidir", LONG_STAGE, "stage 5: longest, never ended by a plateau"),
)
RECIPE = {recipe.name: recipe for recipe in _TABLE}
RECIPES = tuple(RECIPE)

# The regular expression of the names of recipes and variants.
NAME = rf"^({'|'.join(RECIPES)})(-[A-Za-z0-9]+(\.[A-Za-z0-9]+)*)*$"


def recipe_of(name: str) -> str | None:
    """The recipe of a recipe's or variant's name; None for any other name.

    `3B-leaky-lr1e-4` is a variant of `3B-leaky`, not of `3B`.
    """
    if not re.match(NAME, name):
        return None
    return max((r for r in RECIPES if f"{name}-".startswith(f"{r}-")), key=len)


def train_mask_of(name: str) -> str | None:
    """The mask of the training of a recipe or variant; None for a name that is neither."""
    recipe = recipe_of(name)
    return RECIPE[recipe].train_mask if recipe else None


def stage_of(name: str) -> str:
    """The stage that trains a recipe or variant. Raises KeyError for any other name."""
    return RECIPE[recipe_of(name) or name].stage


def contrasted(recipe: str, against: str) -> bool:
    """Whether the table of contrasts has a row for `recipe` against `against`.

    Recipes are compared with each other, and a variant with its own recipe only. So the number of
    rows grows linearly with the number of variants in a sweep.
    """
    both = recipe in RECIPE and against in RECIPE and recipe > against
    return both or (recipe != against and recipe_of(recipe) == against)
