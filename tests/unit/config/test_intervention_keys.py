"""Promises of the keys of interventions: impossible ones are refused with key, file and line."""

import json
import re
from pathlib import Path

import pytest
import yaml

from ablation.config.interventions import BUILT_IN
from ablation.config.load import load_study
from tests.support.fake_hub import FakeHub
from tests.support.refusals import refused

THIN = {"thin": {"kind": "drop_layers", "layers": [3]}}
SWA = {"swa": {"kind": "window", "tokens": 16, "when": "prefill"}}
MANUAL = Path(__file__).resolve().parents[3] / "docs/interventions.md"


def one(**settings):
    return {"interventions": {"x": settings}}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            one(kind="drop_layers", layers=[4]),
            "x.layers .*layer 4 found, but the base has layers 0 to 3",
        ),
        (one(kind="drop_layers", layers=[0, 1, 2, 3]), "all 4 layers of the base would be removed"),
        (one(kind="drop_layers", layers=[1, 1]), "1 is named twice"),
        (one(kind="norm", layers=[9]), "interventions.x.layers .*layer 9 found"),
        (
            one(kind="heads", heads=[[0, 2]]),
            r"interventions.x.heads .*\[0, 2\] found.*heads 0 to 1",
        ),
        (one(kind="heads", heads=[[7, 0]]), "layer 7 found, but the base has layers 0 to 3"),
        (one(kind="heads", heads=[[1]]), "interventions.x.heads.0"),
        (
            one(kind="window", tokens=511, when="prefill"),
            "511 found, but the base reads 512 tokens",
        ),
        (one(kind="window", tokens=16), "interventions.x.when .*missing"),
        (one(kind="window", tokens=16, when="decoding"), "'decoding' found"),
        (one(kind="round", bits=1, group=None), "interventions.x.bits"),
        (one(kind="round", bits=4, group=48), "48 found, which does not divide hidden_size 64"),
        (
            one(kind="prune", sparsity=0.3, structure="2:4"),
            "0.3 found, but two of four weights are 0.5",
        ),
        (one(kind="prune", sparsity=1.0, structure="weights"), "interventions.x.sparsity"),
        (one(kind="windw", tokens=16), "interventions.x .*'windw' found, .*mean `window`"),
        (
            one(kind="mask", mask="prefill_bidir"),
            "'mask' found, .*every study has .*causal, prefill_bidir.*`train_under: prefill_bidir`",
        ),
        (one(kind="window", tokns=16, when="prefill"), "interventions.x.tokns .*unknown key, did"),
        ({"interventions": {"causal": THIN["thin"]}}, "'causal' is a word of tables and folders"),
        ({"interventions": {"lifted": THIN["thin"]}}, "'lifted' is a word of tables and folders"),
        ({"interventions": {"model": THIN["thin"]}}, "'model' is a word of tables and folders"),
        ({"interventions": {"leaky": THIN["thin"]}}, "'leaky' is a word of tables and folders"),
        (
            {"interventions": {"a-b": THIN["thin"]}},
            "a name of small letters and digits was expected",
        ),
    ],
)
def test_an_impossible_intervention_is_refused_with_its_key_and_file(changes, message, tmp_path):
    assert re.search(message, refused(tmp_path, changes), re.S)


def test_a_hub_model_in_the_cache_is_compared_with_what_is_taken_away(tmp_path, monkeypatch):
    """The pinned commit alone counts; without it in the cache, the job compares."""
    hub = FakeHub(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.cache))
    config = json.dumps({"model_type": "llama", "num_hidden_layers": 2}).encode()
    commit = hub.add("they/small", {"config.json": config})
    study = one(kind="drop_layers", layers=[3]) | {"base": "they/small"}
    message = "x.layers .*layer 3 found, but the base has layers 0 to 1"
    assert re.search(message, refused(tmp_path, study | {"pins": {"they/small": commit}}))
    assert load_study(study | {"pins": {"they/small": "ab" * 20}}).from_hub
    load_study(study | {"pins": {"they/small": None}}, pinned=False)


@pytest.mark.parametrize(
    "recipe, message",
    [
        (
            {"3B-thn": {"train_under": "thn"}},
            "recipes.3B-thn.train_under .*'thn' is neither.*mean `thin`",
        ),
        ({"3B-x": {"train_under": "thin"}}, "the name 3B-x does not say so.*3B-thin"),
        ({"3A-thin": {"train_under": "thin"}}, "the name 3A-thin does not say so"),
        (
            {"3B": {"train_mask": "prefill_bidir"}, "3B-thin-lr1e-4": {"learning_rate": 1e-4}},
            "recipes.3B-thin-lr1e-4 .*its name says thin, but it trains under prefill_bidir",
        ),
        (
            {"3B-thin-swa": {"train_under": "thin"}},
            "recipes.3B-thin-swa .*its name says swa, but it trains under thin",
        ),
        (
            {"3B-thin": {"train_under": "thin", "train_mask": "prefill_bidir"}},
            "give one of the two",
        ),
        (
            {"3B-thin": {"train_under": "thin", "score_under": ["causal"]}},
            r"recipes.3B-thin.score_under.0. .*gone for good",
        ),
        (
            {"3B-thin": {"train_under": "thin", "score_under": ["swa"]}},
            "one intervention at a time",
        ),
        (
            {"3A": {"train_mask": "causal", "score_under": ["sw"]}},
            "'sw' is neither.*did you mean `swa`",
        ),
        ({"3B": {"train_under": "causal"}}, "3B is the recipe that trains under prefill_bidir"),
    ],
)
def test_an_impossible_recipe_is_refused_with_its_key_and_file(recipe, message, tmp_path):
    changes = {"interventions": THIN | SWA, "recipes": recipe}
    assert re.search(message, refused(tmp_path, changes), re.S)


def test_weights_that_several_gpus_share_are_trained_under_no_pruning(tmp_path):
    changes = {
        "interventions": THIN,
        "recipes": {"3B-thin": {"train_under": "thin"}},
        "hardware": {"gpu": 2},
        "finetune": {"optimizer": "adafactor"},
    }
    assert "2 GPUs (hardware.gpu) share the weights" in refused(tmp_path, changes)


@pytest.mark.parametrize("written", ["2:4", "'2:4'"])
def test_two_of_four_needs_no_quotes(written, tmp_path):
    """YAML reads 2:4 as a time of day, 124 minutes, which is no share of anything."""
    text = f"interventions: {{x: {{kind: prune, sparsity: 0.5, structure: {written}}}}}"
    (tmp_path / "mine.yaml").write_text(text)
    study = load_study(yaml.safe_load(text), files=[tmp_path / "mine.yaml"])
    assert study.intervention("x")["structure"] == "2:4"


def study_of(**recipes):
    return load_study({"interventions": THIN | SWA, "recipes": recipes})


def test_train_under_a_mask_means_the_mask():
    study = study_of(**{"3B": {"train_under": "prefill_bidir"}, "3A": {"train_under": "causal"}})
    assert study.recipe("3B") == load_study({}).recipe("3B")
    assert study.recipes["3A"].train_mask == "causal" and study.trained_under("3A") is None


def test_a_variant_trains_under_its_intervention_and_not_under_the_mask_of_its_recipe():
    study = study_of(
        **{
            "3B": {"train_mask": "prefill_bidir", "max_steps": 200},
            "3B-swa": {"train_under": "swa"},
        }
    )
    recipe = study.recipes["3B-swa"]
    assert (recipe.train_mask, recipe.train_under, recipe.max_steps) == ("causal", "swa", 200)


def test_each_checkpoint_is_scored_under_what_has_a_meaning_for_it():
    study = study_of(
        **{
            "3A": {"train_mask": "causal"},
            "3B": {"train_mask": "prefill_bidir"},
            "3A-short": {"train_mask": "causal", "max_steps": 200, "score_under": ["thin"]},
            "3B-swa": {"train_under": "swa"},
            "3B-thin": {"train_under": "thin"},
        }
    )
    assert study.controls == {"3B": "3A", "3B-swa": "3A", "3B-thin": "3A"}
    assert study.scored_under("3A") == ["thin", "swa"]  # the control, of both
    assert study.scored_under("3B") == []
    assert study.scored_under("3A-short") == ["thin"]
    assert study.scored_under("3B-swa") == ["lifted", "swa"]
    assert study.scored_under("3B-thin") == ["thin"]  # a layer that is gone is gone


def test_the_keys_of_interventions_are_in_no_fingerprint_of_a_recipe_without_them():
    recipe = load_study({}).recipe("3A")
    assert not {"train_under", "score_under"} & recipe.keys()
    assert study_of(**{"3B-swa": {"train_under": "swa"}}).recipe("3B-swa")["train_under"] == "swa"


def test_the_manual_has_every_kind_and_every_key():
    text = MANUAL.read_text("utf-8")
    for settings in BUILT_IN:
        kind = settings.model_fields["kind"].annotation.__args__[0]
        assert f"### `{kind}`" in text
        section = text.split(f"### `{kind}`")[1].split("\n### ")[0]
        for name in settings.model_fields.keys() - {"kind"}:
            assert f"`{name}`" in section, (kind, name)
