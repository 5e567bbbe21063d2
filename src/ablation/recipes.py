"""The recipes of a study: a closed set, and variants of them that a sweep names."""

from __future__ import annotations

import re

RECIPES = ("3A", "3B", "3B-leaky", "5A", "5B", "5C")
LONG_RECIPES = ("5A", "5B", "5C")  # stage 5: 3B's objective for longer
MASK_OF = {"3A": "causal", "3B": "prefill_bidir", "3B-leaky": "full_bidir"}  # while training
MASK_OF |= dict.fromkeys(LONG_RECIPES, MASK_OF["3B"])

# A variant bears the name of its recipe and, after a hyphen, what it is: `3B-lr1e-4`.
NAME = rf"^({'|'.join(RECIPES)})(-[A-Za-z0-9]+(\.[A-Za-z0-9]+)*)*$"


def recipe_of(name: str) -> str | None:
    """The recipe that `name` is, or is a variant of; None where it is neither.

    `3B-leaky-lr1e-4` is a variant of `3B-leaky`, not of `3B`.
    """
    if not re.match(NAME, name):
        return None
    return max((r for r in RECIPES if f"{name}-".startswith(f"{r}-")), key=len)


def is_long(name: str) -> bool:
    """Whether a recipe or variant belongs to stage 5."""
    return recipe_of(name) in LONG_RECIPES


def contrasted(recipe: str, against: str) -> bool:
    """Whether a table compares the two: recipes with each other, a variant with its own recipe.

    Of a thousand variants nobody wants half a million pairs.
    """
    both = recipe in RECIPES and against in RECIPES and recipe > against
    return both or (recipe != against and recipe_of(recipe) == against)
