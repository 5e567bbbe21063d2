"""Promises of sweeps: variants of recipes, and tables and figures that hold many of them."""

import numpy as np
import pandas as pd
import pytest

from ablation.analysis.conditions import Condition
from ablation.analysis.recovery import study_tables
from ablation.config.load import load_study
from ablation.config.merging import ConfigError
from ablation.report.charts import MOST_RECIPES, few_recipes
from ablation.vocabulary.masks import MASKS
from ablation.vocabulary.metrics import METRICS
from ablation.vocabulary.recipes import (
    RECIPE,
    RECIPES,
    contrasted,
    recipe_of,
    stage_of,
    train_mask_of,
)
from ablation.vocabulary.stages import STAGES
from tests.support.settings import recovery_settings

CONFIG = recovery_settings()


def test_every_recipe_has_a_note_a_mask_and_a_stage_that_trains_it():
    assert tuple(RECIPE) == RECIPES
    assert all(recipe.note and recipe.train_mask in MASKS for recipe in RECIPE.values())
    assert all(STAGES[recipe.stage].kind == "training" for recipe in RECIPE.values())


@pytest.mark.parametrize(
    "name, recipe",
    [(r, r) for r in RECIPES]
    + [("3B-lr1e-4", "3B"), ("3B-leaky-x", "3B-leaky"), ("3B-leakyx", "3B"), ("5A-b0.98", "5A")]
    + [(n, None) for n in ("3C", "3Bx", "3B-", "3B-a/b", "3B-..", "3B_x", "", "x-3B", "3B-a b")],
)
def test_a_variant_belongs_to_the_recipe_that_it_is_named_after(name, recipe):
    assert recipe_of(name) == recipe
    assert train_mask_of(name) == (RECIPE[recipe].train_mask if recipe else None)
    if recipe:
        assert stage_of(name) == f"stage{'5_longrun' if recipe[0] == '5' else '3_finetune'}"
    else:
        with pytest.raises(KeyError):
            stage_of(name)


def test_a_variant_takes_over_the_keys_of_its_recipe():
    recipes = {
        "3B-leaky": {"train_mask": "full_bidir", "weight_decay": 0.25},
        "3B-leaky-lr0.1": {"learning_rate": 0.1},
        "3A-short": {"train_mask": "causal", "max_steps": 200},
    }
    study = load_study({"recipes": recipes})
    variant = study.recipe("3B-leaky-lr0.1")
    assert variant == study.recipe("3B-leaky") | {"learning_rate": 0.1}
    assert study.recipe("3A-short")["max_steps"] == 200  # its recipe is not in the study


@pytest.mark.parametrize(
    "recipes, said",
    [
        ({"3C-x": {"train_mask": "causal"}}, "variant"),
        ({"3B-x": {"train_mask": "causal"}}, "trains under prefill_bidir"),
        ({"3B-x": {"learning_rate": 0.1}}, "recipes.3B-x.train_mask"),
        ({"3B-../x": {"train_mask": "prefill_bidir"}}, "variant"),
    ],
)
def test_a_variant_that_cannot_be_is_refused(recipes, said):
    with pytest.raises(ConfigError, match=said):
        load_study({"recipes": recipes})


def condition(mask, recipe=None, seed=None):
    right = pd.Series(np.arange(20) % 3 % 2, index=[f"d{i}" for i in range(20)])
    if mask == "causal":
        right = right | 1
    return Condition(
        "s", mask, recipe, seed, False, False, {}, "m", dict.fromkeys(METRICS, {"a": right}), {}
    )


def test_a_thousand_variants_are_contrasted_with_their_recipe_alone():
    names = ["3A", "3B", *(f"3B-v{n}" for n in range(30))]
    conditions = [condition(mask) for mask in MASKS]
    conditions += [condition(mask, name, 1) for name in names for mask in MASKS]
    rows, contrasts = study_tables(conditions, CONFIG)
    assert {row["recipe"] for row in rows} == set(names)
    pairs = {(row["recipe"], row["against"]) for row in contrasts}
    assert pairs == {("3B", "3A"), *((f"3B-v{n}", "3B") for n in range(30))}


def test_recipes_of_the_closed_set_are_all_contrasted():
    pairs = [(a, b) for a in RECIPES for b in RECIPES if contrasted(a, b)]
    assert len(pairs) == 15 and all(a > b for a, b in pairs)


def test_a_figure_shows_some_recipes_and_says_so():
    names = [None, *RECIPES, *(f"3A-v{n:03}" for n in range(100))]
    frame = pd.DataFrame({"recipe": names, "x": 1})
    some, note = few_recipes(frame)
    assert list(some.recipe[1:]) == [*RECIPES, *(f"3A-v{n:03}" for n in range(MOST_RECIPES - 6))]
    assert f"{MOST_RECIPES} of 106 recipes" in note
    whole, note = few_recipes(frame[:20])
    assert len(whole) == 20 and note == ""
