"""Promises of the key `adapter`: wrong ones are refused, and null leaves no trace."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from ablation.config import intervention_checks
from ablation.config.load import load_study
from ablation.provenance.code_hash import code_closure
from ablation.provenance.fingerprints import package_versions
from ablation.vocabulary.optimizers import ADAPTERS, unused_modules
from ablation.workflow.load import StudyWorkflow
from tests.support.refusals import refused

ROOT = Path(__file__).resolve().parents[3]
LORA = {"kind": "lora", "r": 4, "alpha": 8, "targets": ["q_proj"]}
TAKEN = {
    "few": {"kind": "round", "bits": 2, "group": 16},
    "thin": {"kind": "prune", "sparsity": 0.5, "structure": "weights"},
    "swa": {"kind": "window", "tokens": 16, "when": "prefill"},
}


@pytest.fixture
def with_peft(monkeypatch):
    """As if peft were installed, of which only the version is read here."""
    if find_spec("peft") is None:
        monkeypatch.setattr(intervention_checks, "find_spec", lambda name: True)
        monkeypatch.setattr("ablation.provenance.fingerprints._version", lambda name: "1")


def study(recipes, **others):
    return {"seeds": [1], "interventions": TAKEN, "recipes": recipes} | others


@pytest.mark.usefixtures("with_peft")
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"r": 0}, "adapter.r .*0 found"),
        ({"kind": "ia3"}, "adapter.kind .*'ia3' found"),
        ({"rank": 4}, "adapter.rank .*unknown key"),
        ({"base_bits": 8}, "adapter.base_bits .*8 found"),
        ({"dropout": 1.0}, "adapter.dropout .*1.0 found"),
        ({"targets": "q_proj"}, "adapter.targets .*'q_proj' found, `all-linear` or a list"),
        ({"targets": []}, "adapter.targets .*`all-linear` or a list"),
        ({"targets": [3]}, "adapter.targets .*`all-linear` or a list"),
        ({"targets": ["a", "a"]}, "adapter.targets .*target a is named twice"),
    ],
)
def test_a_wrong_adapter_is_refused_with_its_key_and_file(changes, message, tmp_path):
    text = refused(tmp_path, study({"3A": {"train_mask": "causal", "adapter": LORA | changes}}))
    assert re.search(rf"recipes\.3A\.{message}", text)
    assert len(text.splitlines()) == 2


@pytest.mark.usefixtures("with_peft")
@pytest.mark.parametrize("under", ["few", "thin"])
def test_an_adapter_whose_merge_undoes_every_matrix_is_refused_at_load(under, tmp_path):
    recipe = {"train_under": under, "adapter": LORA}
    text = refused(tmp_path, study({f"3B-{under}": recipe}))
    message = rf"recipes\.3B-{under}\.adapter .*beside train_under {under} .*`adapter: null`"
    assert re.search(message, text)


@pytest.mark.usefixtures("with_peft")
def test_an_adapter_on_several_gpus_is_refused_at_load(tmp_path):
    recipe = {"3A": {"train_mask": "causal", "adapter": LORA}}
    text = refused(tmp_path, study(recipe, hardware={"gpu": 2, "dtype": "bfloat16"}))
    assert re.search(r"recipes\.3A\.adapter .*2 GPUs \(hardware.gpu\)", text)


def test_an_adapter_without_peft_is_refused_at_load(tmp_path, monkeypatch):
    monkeypatch.setattr(intervention_checks, "find_spec", lambda name: None)
    text = refused(tmp_path, study({"3A": {"train_mask": "causal", "adapter": LORA}}))
    assert re.search(r"recipes\.3A\.adapter .*peft is not installed", text)


ROUNDED = LORA | {"base_bits": 4}
GPU = {"gpu": 1, "dtype": "bfloat16"}


@pytest.mark.parametrize(
    "recipe, hardware, installed, message",
    [
        ({"3A": {"train_mask": "causal"}}, GPU, ["peft"], "3A.* bitsandbytes is not installed"),
        ({"3A": {"train_mask": "causal"}}, {"gpu": 0}, None, "3A.* needs a GPU"),
        ({"3B-swa": {"train_under": "swa"}}, GPU, None, "3B-swa.* beside train_under swa"),
    ],
)
def test_a_base_of_4_bits_is_refused_at_load_where_it_is_not_possible(
    recipe, hardware, installed, message, tmp_path, monkeypatch
):
    found = lambda name: installed is None or name in installed or None  # noqa: E731
    monkeypatch.setattr(intervention_checks, "find_spec", found)
    (keys,) = recipe.values()
    text = refused(
        tmp_path, study({n: keys | {"adapter": ROUNDED} for n in recipe}, hardware=hardware)
    )
    assert re.search(message.replace(".*", r"\.adapter\.base_bits .*", 1), text)


@pytest.mark.usefixtures("with_peft")
def test_the_control_is_trained_with_the_same_adapter():
    recipes = {
        "3A": {"train_mask": "causal"},
        "3A-lora": {"train_mask": "causal", "adapter": LORA},
        "3A-wide": {"train_mask": "causal", "adapter": LORA | {"r": 8}},
        "3B": {"train_mask": "prefill_bidir"},
        "3B-lora": {"train_mask": "prefill_bidir", "adapter": LORA},
        "3B-swa": {"train_under": "swa", "adapter": LORA | {"r": 8}},
    }
    controls = {"3B": "3A", "3B-lora": "3A-lora", "3B-swa": "3A-wide"}
    assert load_study(study(recipes)).controls == controls


@pytest.mark.usefixtures("with_peft")
def test_an_adapter_for_all_recipes_is_written_once():
    recipes = {"3A": {"train_mask": "causal"}, "3B": {"train_mask": "prefill_bidir"}}
    made = load_study(study(recipes, finetune={"adapter": LORA}))
    assert [r.adapter.r for r in made.recipes.values() if r.adapter] == [4, 4]


@pytest.mark.usefixtures("with_peft")
def test_null_is_as_no_key_and_an_adapter_is_in_the_fingerprint_of_its_training():
    def fingerprint(**keys):
        values = study({"3A": {"train_mask": "causal"} | keys})
        return StudyWorkflow(values, ROOT, []).fingerprints.of("stage3_finetune", "3A", "1")

    plain, null, adapted = fingerprint(), fingerprint(adapter=None), fingerprint(adapter=LORA)
    assert plain == null and "adapter" not in plain["config"]["recipe"]
    assert "peft" not in plain["packages"]
    assert adapted["config"]["recipe"]["adapter"] == LORA | {"dropout": 0.0}
    assert adapted["packages"] == plain["packages"] | package_versions(["peft"])
    assert adapted["code"] != plain["code"]


def test_code_of_adapters_counts_for_trainings_of_adapters_alone():
    recipe = {"optimizer": "sgd"}
    assert ADAPTERS in unused_modules({"recipe": recipe})
    assert ADAPTERS not in unused_modules({"recipe": recipe | {"adapter": LORA}})
    script = ROOT / "workflow/scripts/finetune.py"
    assert ADAPTERS in code_closure(script)
    assert ADAPTERS not in code_closure(script, leave_out=unused_modules({"recipe": recipe}))
