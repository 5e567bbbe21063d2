"""Promises of staleness: another intervention, or a changed kind, affects its own jobs alone."""

import shutil
from pathlib import Path

import pytest

from ablation.config.interventions import BUILT_IN, KINDS, InterventionSettings, modules_of
from ablation.provenance.code_hash import code_closure, code_hash, module_file
from ablation.vocabulary.catalogue import FIRST
from ablation.vocabulary.stages import STAGES
from ablation.workflow.load import StudyWorkflow

ROOT = Path(__file__).resolve().parents[3]
RUN_MODELS = ("evaluate", "finetune")  # scripts of jobs that can have an intervention
RECIPES = {
    "3A": {"train_mask": "causal"},
    "3B": {"train_mask": "prefill_bidir"},
    "3B-thin": {"train_under": "thin"},
    "5A-thin": {"train_under": "thin", "max_steps": 300},
}
THIN = {"kind": "drop_layers", "layers": [3]}
SWA = {"kind": "window", "tokens": 16, "when": "prefill"}
EVERY_RECIPE = {**RECIPES, "3B-swa": {"train_under": "swa"}}


class Theirs(InterventionSettings):
    """A kind of another distribution."""

    implementation = "theirs:Theirs"


def workflow(**changes):
    values = {"seeds": [31], "interventions": {"thin": THIN}, "recipes": RECIPES} | changes
    return StudyWorkflow(values, ROOT, [])


def measured(**changes):
    """{manifest of a scored condition or a checkpoint: its fingerprint} of a study."""
    made = workflow(**changes).fingerprints
    return made.measured | made.trained()


def test_another_intervention_makes_no_training_and_no_scoring_stale():
    before = measured()
    after = measured(interventions={"thin": THIN, "swa": SWA}, recipes=EVERY_RECIPE)
    assert {path: after[path]["hash"] for path in before} == {
        path: fingerprint["hash"] for path, fingerprint in before.items()
    }
    new = {path.removeprefix("results/micro/") for path in after.keys() - before.keys()}
    assert new == {
        "stage2_ablation/swa/manifest.json",
        "stage3_finetune/3B-swa/seed31/manifest.json",
        "stage4_posteval/3A/seed31/swa/manifest.json",  # the control
        "stage4_posteval/3B-swa/seed31/lifted/manifest.json",
        "stage4_posteval/3B-swa/seed31/swa/manifest.json",
    }


def test_without_interventions_a_study_has_the_fingerprints_that_it_always_had():
    plain = {name: recipe for name, recipe in RECIPES.items() if "train_mask" in recipe}
    before, after = measured(interventions={}, recipes=plain), measured()
    assert before.items() <= after.items()
    for fingerprint in before.values():
        assert not {"intervention", "condition"} & fingerprint["config"].keys()
        assert "train_under" not in fingerprint["config"].get("recipe", {})


def test_the_first_recipe_under_an_intervention_makes_stale_only_tables_of_all_recipes():
    plain = {name: recipe for name, recipe in RECIPES.items() if "train_mask" in recipe}
    changes = [{"interventions": {}, "recipes": plain}, {}]
    before, after = (workflow(**own).fingerprints for own in changes)
    tables = FIRST.stages_behind(FIRST.tables)
    everywhere = {"recovery", "published", "flips", "curves"}  # these have rows of every recipe
    stale = {name for name in tables if before.of(name) != after.of(name)}
    assert "samples" in tables and stale == everywhere


def test_what_is_taken_away_is_in_the_fingerprints_that_depend_on_it_alone():
    before, after = measured(), measured(interventions={"thin": THIN | {"layers": [2]}})
    changed = {p.removeprefix("results/micro/") for p in after if after[p] != before[p]}
    assert changed == {
        "stage2_ablation/thin/manifest.json",
        "stage3_finetune/3B-thin/seed31/manifest.json",
        "stage5_longrun/5A-thin/seed31/manifest.json",
        "stage4_posteval/3A/seed31/thin/manifest.json",
        "stage4_posteval/3B-thin/seed31/thin/manifest.json",
        "stage5_longrun/5A-thin/seed31/thin/manifest.json",
    }


def test_a_score_without_what_was_taken_away_is_that_of_causal():
    made = measured(interventions={"thin": THIN, "swa": SWA}, recipes=EVERY_RECIPE)
    config = made["results/micro/stage4_posteval/3B-swa/seed31/lifted/manifest.json"]["config"]
    assert config["condition"] == "causal" and "intervention" not in config
    config = made["results/micro/stage4_posteval/3B-swa/seed31/swa/manifest.json"]["config"]
    assert (config["condition"], config["intervention"]) == ("swa", SWA)


@pytest.mark.parametrize("script", RUN_MODELS)
def test_a_changed_kind_makes_only_its_own_jobs_stale(script, tmp_path):
    package = tmp_path / "ablation"
    shutil.copytree(ROOT / "src/ablation", package, ignore=shutil.ignore_patterns("__pycache__"))
    file = ROOT / f"workflow/scripts/{script}.py"
    kinds = [settings.model_fields["kind"].annotation.__args__[0] for settings in BUILT_IN]
    modules = {kind: modules_of({"kind": kind}) for kind in kinds} | {"none": frozenset()}
    before = {kind: code_hash(file, package, by_name=names) for kind, names in modules.items()}
    for kind in kinds:
        (module,) = modules[kind]
        assert module not in code_closure(file, package)
        changed = module_file(module, package)
        changed.write_text(changed.read_text("utf-8") + "\nX = 1\n", "utf-8")
        code_hash.cache_clear()
        after = {k: code_hash(file, package, by_name=names) for k, names in modules.items()}
        assert {k for k in modules if after[k] != before[k]} == {kind}
        before = after


@pytest.mark.parametrize("module", ["anatomy", "protocol"])
def test_what_only_interventions_execute_makes_no_job_without_one_stale(
    module, tmp_path, monkeypatch
):
    package = tmp_path / "ablation"
    shutil.copytree(ROOT / "src/ablation", package, ignore=shutil.ignore_patterns("__pycache__"))
    scripts = {stage.script for stage in STAGES.values()}
    monkeypatch.setitem(KINDS, "theirs", Theirs)
    under = {"none": {}, "thin": THIN, "swa": SWA, "theirs": {"kind": "theirs"}}

    def hashes():
        code_hash.cache_clear()
        return {
            (script, name): code_hash(
                ROOT / f"workflow/scripts/{script}.py", package, by_name=modules_of(taken)
            )
            for script in scripts
            for name, taken in (under if script in RUN_MODELS else {"none": {}}).items()
        }

    before, changed = hashes(), package / f"interventions/{module}.py"
    changed.write_text(changed.read_text("utf-8") + "\nX = 1\n", "utf-8")
    after = hashes()
    assert {key for key in before if after[key] != before[key]} == {
        (script, name) for script in RUN_MODELS for name in under if name != "none"
    }


def test_a_kind_of_another_distribution_brings_its_version_into_the_fingerprint(monkeypatch):
    monkeypatch.setattr("ablation.workflow.base.distribution_of", lambda values: "pytest")
    made = measured()["results/micro/stage2_ablation/thin/manifest.json"]
    assert made["packages"]["pytest"] == pytest.__version__
