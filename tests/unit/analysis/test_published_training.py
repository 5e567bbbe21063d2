"""Promises of the table of deviations: each key that can change a training or a score has its
published value, and a study that differs in it has a row of it."""

import json
from pathlib import Path

import pytest

from ablation.analysis.published_training import (
    _all_settings,
    deviation_table,
    deviations,
    trained_otherwise,
    training_settings,
)
from ablation.config.load import load_study
from ablation.vocabulary.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = json.loads((ROOT / "resources/published/prefill.json").read_text("utf-8"))
SHARED = PUBLISHED["training"]["shared"]
AS_PUBLISHED = ["3A-as-published", "3B-as-published"]
# The published code did not set the threads; capacities of packed rows change no score.
WITHOUT_PUBLISHED_VALUE = {"hardware.threads", "evaluation.row_tokens", "evaluation.batch_tokens"}
CHANGES = {"model", "seeds", "training", "rounding", "scores", "nothing"}


@pytest.fixture(scope="module")
def study():
    return load_study({"extends": "ministral3b.yaml"}, pinned=False)


def rows(study):
    return set(deviation_table(study, PUBLISHED).splitlines())


def test_every_key_of_a_training_and_of_its_scores_has_a_published_value(study):
    for recipe in RECIPES:
        known = set(SHARED | PUBLISHED["training"]["recipes"][recipe])
        assert known == set(_all_settings(study, recipe)) - WITHOUT_PUBLISHED_VALUE
    assert {entry["changes"] for entry in SHARED.values()} == CHANGES
    assert all(entry["source"] for entry in SHARED.values())


def changed(study, recipe, key):
    """A copy of `study` with another value of `key`, in `recipe` if it is a key of recipes."""
    block, _, name = key.rpartition(".")
    value = other(_all_settings(study, recipe)[key])
    if block in ("", "stops") and key not in ("base", "seeds"):
        own = study.recipes[recipe]
        update = {"stops": own.stops.model_copy(update={name: value})} if block else {key: value}
        recipes = study.recipes | {recipe: own.model_copy(update=update)}
        return study.model_copy(update={"recipes": recipes})
    if block:
        part = getattr(study, block).model_copy(update={name: value})
        return study.model_copy(update={block: part})
    return study.model_copy(update={key: value})


def other(value):
    match value:
        case bool():
            return not value
        case int() | float():
            return value * 2 + 1
        case str():
            return f"{value}-2"
        case list():
            return value[:-1]
    return {"another": 1} if value is None else None


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("key", [*SHARED, "train_mask"])
def test_a_changed_key_is_in_the_table(study, key):
    new = changed(study, "3B-as-published", key)
    value = _all_settings(new, "3B-as-published")[key]
    assert value != _all_settings(study, "3B-as-published")[key]
    of_key = [row for row in rows(new) - rows(study) if row.startswith(f"| `{key}` |")]
    expected = [row for row in of_key if "3B-as-published" in row or "| all |" in row]
    now_equal = key in SHARED and value == SHARED[key]["value"]
    assert bool(expected) is not now_equal
    assert now_equal == (key == "hardware.compile")  # the only one that can only be as published


def test_a_fact_without_a_key_is_in_the_table(study):
    table = deviation_table(study, PUBLISHED)
    assert all(
        f"| {fact['what']} | all |" in table for fact in PUBLISHED["training"]["beyond_keys"]
    )


@pytest.mark.parametrize("recipe", AS_PUBLISHED)
def test_the_arms_as_published_differ_in_rounding_and_seeds_alone(study, recipe):
    found = deviations(_all_settings(study, recipe), PUBLISHED, recipe)
    assert {key for key, entry in found.items() if entry["changes"] != "scores"} == {
        "seeds",
        "save_steps",  # which changes nothing
        "hardware.attention",
        "hardware.compile",
    }
    assert trained_otherwise(training_settings(study, recipe), PUBLISHED, recipe) is None


def test_the_corrected_recipes_are_trained_otherwise(study):
    for recipe in RECIPES:
        found = trained_otherwise(training_settings(study, recipe), PUBLISHED, recipe)
        assert found == "training (format, optimizer, stops.leak)"


def test_only_the_first_keys_of_another_training_are_named():
    found = trained_otherwise(training_settings(load_study({}), "3B-open"), PUBLISHED, "3B-open")
    assert found.startswith("training (instructions.data, instructions.count, format and ")
    assert found.endswith(" more)")
