"""Promises of a study with interventions: its tables, its staleness, and what stops it."""

import json

import pandas as pd
import pytest
import yaml
from conftest import Checkout, copy_of_the_repository

pytestmark = [pytest.mark.study, pytest.mark.long]

TAKEN = {
    "window": {"kind": "window", "tokens": 16, "when": "prefill"},
    "thin": {"kind": "drop_layers", "layers": [3]},
}
OTHERS = {
    "heads": {"kind": "heads", "heads": [[1, 0]]},
    "positions": {"kind": "positions"},
    "round": {"kind": "round", "bits": 3, "group": 32},
    "prune": {"kind": "prune", "sparsity": 0.5, "structure": "weights"},
    "norm": {"kind": "norm", "layers": None},
}
LORA = {"kind": "lora", "r": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]}
RECIPES = {
    "3A": {"train_mask": "causal"},
    "3A-lora": {"train_mask": "causal", "adapter": LORA},
    "3B-window": {"train_under": "window"},
    "3B-thin": {"train_under": "thin"},
}
RESULTS = "results/taken"
TABLES = {"recovery", "flips", "published", "pages", "runs", "recovery_named"}


class Study:
    """A short study with interventions, in a clone of its own."""

    options = ("--configfile", "taken.yaml")

    def __init__(self, folder):
        self.checkout = Checkout(copy_of_the_repository(folder), preloaded=True)
        self.write(TAKEN, RECIPES)

    def write(self, taken, recipes):
        steps = {"max_steps": 3, "warmup_steps": 1, "log_steps": 1, "eval_steps": 2}
        config = {
            "study": "taken",
            "seeds": [1],
            "interventions": taken,
            "recipes": recipes,
            "finetune": steps | {"stops": {"no_learning": None}},
            "evaluation": {"limit": 5},
        }
        (self.checkout.folder / "taken.yaml").write_text(yaml.safe_dump(config))

    def read(self, name):
        return json.loads((self.checkout.folder / RESULTS / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = Study(tmp_path_factory.mktemp("taken") / "clone")
    figure = f"{RESULTS}/figures/interventions.svg"
    made.checkout.run("results/recovery.csv", figure, *made.options)
    return made


def test_the_table_has_the_conditions_that_have_a_meaning(study):
    rows = pd.read_csv(study.checkout.folder / RESULTS / "recovery.csv")
    found = {recipe: set(part["mask"]) for recipe, part in rows.groupby("recipe")}
    assert found == {
        "3A": {"causal", "prefill_bidir", "full_bidir", "window", "thin"},
        "3A-lora": {"causal", "prefill_bidir", "full_bidir"},  # no recipe has it for a control
        "3B-window": {"causal", "window"},
        "3B-thin": {"thin"},  # what is gone for good has no score without
    }
    own = rows[(rows.recipe == "3B-thin") & (rows.task == "macro")]
    assert set(own.control) == {"3A"} and set(own.net_recovered_status) != {"no_control"}
    assert own.control_ablated.notna().all() and own.baseline.notna().all()


def test_a_checkpoint_names_what_was_taken_away_and_its_scores_hold_the_evidence(study):
    trained = study.read("stage3_finetune/3B-thin/seed1/manifest.json")
    assert trained["trained_under"] == TAKEN["thin"]
    config = study.read("stage3_finetune/3B-thin/seed1/model/config.json")
    assert config["num_hidden_layers"] == 3
    assert [mark["settings"] for mark in config["ablation_interventions"]] == [TAKEN["thin"]]
    scored = study.read("stage4_posteval/3B-thin/seed1/thin/evaluation.json")
    assert (scored["mask"], scored["intervention_audit"]["layers_ran"]) == ("thin", 3)
    lifted = study.read("stage4_posteval/3B-window/seed1/lifted/manifest.json")
    assert lifted["mask"] == "causal" and lifted["recipe"] == "3B-window"
    assert "intervention_audit" not in study.read(
        "stage4_posteval/3B-window/seed1/lifted/evaluation.json"
    )
    plain = study.read("stage3_finetune/3A/seed1/manifest.json")
    assert "trained_under" not in plain


def test_an_adapter_is_merged_into_the_checkpoint_and_kept_in_it(study):
    trained = study.read("stage3_finetune/3A-lora/seed1/manifest.json")
    files = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    assert files <= {name.partition("model/")[2] for name in json.dumps(trained).split('"')}
    plain = study.read("stage3_finetune/3A/seed1/summary.json")["recipe"]
    recipe = study.read("stage3_finetune/3A-lora/seed1/summary.json")["recipe"]
    assert recipe.pop("adapter") == LORA | {"dropout": 0.0} and recipe == plain


def test_a_treated_checkpoint_is_continued_as_it_was_trained_by_other_commands(study):
    prompt = ("--prompt", "The fox", "--mask", "causal", "--recipe", "3B-thin", "--study")
    done = study.checkout.ablation("sample", *prompt, "taken", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = f"{RESULTS}/stage3_finetune/3B-thin/seed1/model"
    code = f"from ablation.model.checkpoints import load; load({folder!r})"
    refused = study.checkout.python("-c", code, check=False)
    assert refused.returncode and "NotInForce" in refused.stderr


def test_another_intervention_runs_no_job_of_the_others_again(study):
    study.write(
        TAKEN | {"heads": OTHERS["heads"]}, RECIPES | {"3B-heads": {"train_under": "heads"}}
    )
    try:
        stale = study.checkout.stale(options=study.options)
    finally:
        study.write(TAKEN, RECIPES)
    assert stale - TABLES == {
        "stage2_intervention",
        "stage2_intervention_metrics",
        "stage3_finetune:3B-heads",
        "stage4_intervention",
        "stage4_intervention_metrics",
    }
    assert study.checkout.stale(options=study.options) == set()


def test_without_its_application_every_kind_stops_the_study(study, tmp_path):
    """Jobs of the scores of the base: each says which intervention is not in force."""
    other = Study(tmp_path / "clone")
    other.write(TAKEN | OTHERS, RECIPES)
    file = other.checkout.folder / "src/ablation/interventions/protocol.py"
    text, line = file.read_text("utf-8"), "        if self.marked(model):\n"
    assert text.count(line) == 1
    file.write_text(text.replace(line, f"        if True:\n            return\n{line}"), "utf-8")
    homes = [f"{RESULTS}/stage2_ablation/{name}/manifest.json" for name in TAKEN | OTHERS]
    wanted = (*homes, f"{RESULTS}/stage3_finetune/3B-thin/seed1/manifest.json")
    done = other.checkout.snakemake(
        "--cores", "2", "--keep-going", *wanted, *other.options, check=False
    )
    assert done.returncode != 0
    for name in TAKEN | OTHERS:
        log = other.checkout.folder / f"logs/taken/stage2_intervention/{name}.log"
        assert f"NotInForce: intervention {name!r} is not in force" in log.read_text("utf-8")
        assert not (other.checkout.folder / f"{RESULTS}/stage2_ablation/{name}").exists()
    log = other.checkout.folder / "logs/taken/stage3_finetune/3B-thin-seed1.log"
    assert "NotInForce: intervention 'thin'" in log.read_text("utf-8")
