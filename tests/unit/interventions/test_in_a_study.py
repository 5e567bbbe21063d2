"""Promises of trainings and scorings under an intervention: it is in force from begin to end."""

import json

import pytest
import torch

from ablation.interventions.anatomy import matrices
from ablation.interventions.loading import load_under, save_under
from ablation.interventions.protocol import Intervention
from ablation.interventions.registry import make
from ablation.model.checks.treated import NotInForce
from ablation.scoring.evaluate import evaluate
from ablation.scoring.items import Items
from ablation.training.finetune import finetune
from tests.support.small_training import HARDWARE, recipe, stopped_after
from tests.support.tiny import tiny_model
from tests.unit.interventions.test_kinds import SETTINGS

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = [kind for kind in SETTINGS if "_" not in kind or kind == "drop_layers"]


@pytest.fixture
def base(tokenizer):
    return tiny_model("ministral3", vocabulary=len(tokenizer))


def trained(base, tokenizer, data, home, under, **changes):
    def load():
        under.apply(base)
        return base, tokenizer

    settings = recipe(train_mask="causal", **changes)
    return finetune(load, data, settings, 1, HARDWARE, "test", home, intervention=under)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_trained_saved_and_loaded_again_under_it(kind, base, tokenizer, data, tmp_path):
    under = make("x", SETTINGS[kind])
    before = {n: w.clone() for n, w in base.named_parameters()}
    tuned = trained(base, tokenizer, data, tmp_path / "state", under)
    assert any(not torch.equal(w, before.get(n)) for n, w in tuned.model.named_parameters())
    audits = tuned.summary["intervention_audit"]
    assert audits["before"].keys() == audits["after"].keys() and audits["after"]
    assert tuned.summary["intervention"] == {"name": "x", **SETTINGS[kind]}
    json.dumps(tuned.summary)
    save_under(HARDWARE, tuned.model, tokenizer, tmp_path / "model", under)
    again, _ = load_under(HARDWARE, tmp_path / "model", under, under.as_dict())
    assert under.audit(again) == audits["after"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_whose_model_is_whole_again_stops(
    kind, base, tokenizer, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(Intervention, "apply", lambda self, model: None)
    with pytest.raises(NotInForce, match="'x' is not in force"):
        trained(base, tokenizer, data, tmp_path / "state", make("x", SETTINGS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_scoring_whose_model_is_whole_again_stops(kind, base, tokenizer, monkeypatch, tmp_path):
    under = make("x", SETTINGS[kind])
    monkeypatch.setattr(Intervention, "apply", lambda self, model: None)
    under.apply(base)
    with pytest.raises(NotInForce, match="'x' is not in force"):
        evaluate(base, Items(tokenizer, [], tmp_path), "causal", intervention=under)


@pytest.mark.parametrize("kind", ["prune", "round", "heads"])
def test_a_training_that_heals_the_damage_is_refused_at_its_end(
    kind, base, tokenizer, data, tmp_path, monkeypatch
):
    under = make("x", SETTINGS[kind])
    under.apply(base)
    monkeypatch.setattr(type(under), "constrain", lambda self, model: None)
    with pytest.raises(NotInForce, match="'x' is not in force"):
        trained(base, tokenizer, data, tmp_path / "state", under)


def test_a_folder_that_was_healed_on_its_way_to_the_disk_is_not_kept(base, tokenizer, tmp_path):
    under = make("x", SETTINGS["prune"])
    under.apply(base)
    with torch.no_grad():
        matrices(base)[0].weight.add_(1)  # as a merge does
    with pytest.raises(NotInForce):
        save_under(HARDWARE, base, tokenizer, tmp_path / "model", under)
    assert not (tmp_path / "model").exists()


def test_steps_smaller_than_a_level_add_up_under_rounding(base, tokenizer, data, tmp_path):
    """The float32 copies keep them, so that a rounded weight moves in the end."""
    under = make("x", SETTINGS["round"])
    under.apply(base)
    first = [m.values.clone() for m in matrices(base)]
    changes = {"learning_rate": 2e-3, "max_steps": 30, "schedule": "constant_with_warmup"}
    tuned = trained(base, tokenizer, data, tmp_path / "state", under, **changes)
    steps = [(m.values - old).abs() for m, old in zip(matrices(tuned.model), first, strict=True)]
    moved = torch.cat([s.flatten() for s in steps])
    assert 0 < (moved > 0.05).float().mean() < 0.5  # levels of a whole step apart


def test_a_killed_training_under_rounding_ends_with_the_same_bits(tokenizer, data, tmp_path):
    def run(home, **changes):
        model = tiny_model("ministral3", vocabulary=len(tokenizer))
        under = make("x", SETTINGS["round"])
        return trained(model, tokenizer, data, home, under, **changes)

    steps = {"max_steps": 6, "save_steps": 3, "log_steps": 1}
    whole = run(tmp_path / "whole", **steps).model.state_dict()
    with stopped_after(4):
        run(tmp_path / "state", **steps)
    again = run(tmp_path / "state", **steps)
    assert again.record["resumes"] == [3]
    assert all(torch.equal(whole[k], w) for k, w in again.model.state_dict().items())
