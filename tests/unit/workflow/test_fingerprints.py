"""Promises of the fingerprints that the rules hand to jobs: a setting is in those it can change."""

import shutil
from itertools import product
from pathlib import Path

import pytest

from ablation.provenance.files import write_json
from ablation.vocabulary.masks import ABLATED_MASKS, MASKS
from ablation.vocabulary.stages import STAGES
from ablation.workflow.bridge_fingerprints import BridgeFingerprints
from ablation.workflow.fingerprints import StudyFingerprints
from ablation.workflow.generation_fingerprints import GenerationFingerprints
from ablation.workflow.load import StudyWorkflow

ROOT = Path(__file__).resolve().parents[3]
TABLES = {"recovery", "published", "flips"}
DRAWN = {"figures accuracy", "figures recovery", "figures flips", "pages"}
SCORED_BASE = {"stage1_baseline", "stage1_metrics", "stage2_ablation", "stage2_metrics"}


FAMILIES = ("3B-open", "3B-no-hellaswag-piqa", "3B-no-challenge-winogrande")
SHORT, LONG = ("3A", "3B", "3B-leaky", *FAMILIES), ("5A", "5B", "5C")
ALONE = """
base base_items bag_of_words mask_cells stage1_baseline stage1_metrics stage2_ablation
stage2_metrics recovery published flips curves samples pages
""".split()


def scoring(recipe):
    """The stages that score a recipe and compute its metrics."""
    number = 5 if recipe in LONG else 4
    return {f"stage{number}_posteval", f"stage{number}_metrics"}


def training(recipe):
    return {"stage5_longrun" if recipe in LONG else "stage3_finetune"}


def of_recipe(stages, recipe):
    return {f"{stage} {recipe}" for stage in stages}


def hashes(**overrides):
    """{`stage`, `stage recipe` or `stage figure`: hash of its fingerprint} of the micro study."""
    loaded = StudyWorkflow(overrides, ROOT, [])
    made, seed = loaded.fingerprints, loaded.study.seeds[0]
    jobs = {stage: made.of(stage) for stage in ALONE}
    jobs |= {f"figures {figure}": made.of("figures", figure) for figure in loaded.paths.figures}
    for recipe in loaded.study.recipes:
        for stage in training(recipe) | scoring(recipe):
            jobs[f"{stage} {recipe}"] = made.of(stage, recipe, seed)
    return {job: fingerprint["hash"] for job, fingerprint in jobs.items()}


@pytest.fixture(scope="module")
def shipped():
    return hashes()


CASES = {
    "nothing": ({}, set()),
    "the country of the electricity": ({"carbon_region": "DEU"}, set()),
    "where trainings are shown": ({"tracking": ["tensorboard", "wandb"]}, set()),
    "the confidence of all intervals": (
        {"statistics": {"confidence": 0.9}},
        ({"recovery", "published"} | DRAWN) - {"figures flips"},
    ),
    "items of each task": (
        {"evaluation": {"limit": 7}},
        SCORED_BASE.union(*(of_recipe(scoring(r), r) for r in SHORT + LONG)) | TABLES | DRAWN,
    ),
    "the learning rate of all finetunings": (
        {"finetune": {"learning_rate": 1e-5}},
        set().union(*(of_recipe(training(r) | scoring(r), r) for r in SHORT + LONG))
        | TABLES
        | DRAWN
        | {"curves", "figures curves", "samples"},
    ),
    "examples in prompts": (
        {"evaluation": {"num_fewshot": 2}},
        SCORED_BASE.union(*(of_recipe(scoring(r), r) for r in SHORT + LONG)) | TABLES | DRAWN,
    ),
    "keys that are not used": (
        {"evaluation": {"num_fewshot": None, "chat_template": False, "data_folder": None}},
        set(),
    ),
    "where the data of other tasks lie": ({"evaluation": {"data_folder": "resources"}}, set()),
    "GPUs of a finetuning": ({"hardware": {"gpu": 0}}, set()),
}


@pytest.mark.parametrize("case", CASES)
def test_a_setting_changes_the_fingerprints_of_what_it_can_change_and_no_other(
    shipped, case, monkeypatch
):
    monkeypatch.setattr("ablation.config.checks.find_spec", lambda name: True)  # trackers
    overrides, expected = CASES[case]
    changed = hashes(**overrides)
    assert {name for name in shipped if changed[name] != shipped[name]} == expected


def test_every_stage_has_a_slice_and_every_slice_a_stage():
    slices = {
        name.removeprefix("_")
        for kind in (StudyFingerprints, GenerationFingerprints, BridgeFingerprints)
        for name in vars(kind)
        if name.removeprefix("_") in STAGES
    }
    assert slices == set(STAGES)


def test_a_generation_task_makes_no_score_of_choices_stale(shipped):
    """Only tables, which get its rows, and what is made of them."""
    tasks = [*StudyWorkflow({}, ROOT, []).study.evaluation.tasks, "micro_open", "gsm8k"]
    shots = {"gsm8k": 2}
    changed = hashes(evaluation={"tasks": tasks, "num_fewshot": shots})
    assert {name for name in shipped if changed[name] != shipped[name]} == TABLES | DRAWN


def test_texts_are_generated_under_every_condition_but_the_leaking_mask():
    study = {"evaluation": {"tasks": ["micro_piqa", "micro_open", "gsm8k"]}}
    study |= {"interventions": {"near": {"kind": "window", "tokens": 8, "when": "prefill"}}}
    loaded = StudyWorkflow(study, ROOT, [])
    made = {path: f for path, f in loaded.fingerprints.measured.items() if "generated" in path}
    home = "results/micro"
    of_base = {path for path in made if "seed" not in path}
    assert of_base == {
        f"{home}/stage1_baseline/generated/manifest.json",
        f"{home}/stage2_ablation/prefill_bidir/generated/manifest.json",
        f"{home}/stage2_ablation/near/generated/manifest.json",
    }
    assert not any("full_bidir" in path for path in made)
    assert f"{home}/stage4_posteval/3B/seed31/prefill_bidir/generated/manifest.json" in made
    under = made[f"{home}/stage2_ablation/near/generated/manifest.json"]
    assert under["config"]["condition"] == "near" and under["config"]["masks"] == ["causal"]
    assert under["config"]["evaluation"]["tasks"] == ["micro_open", "gsm8k"]
    assert sorted(under["upstream"]) == [
        f"{home}/base/generation_items/manifest.json",
        f"{home}/base/items/manifest.json",
        f"{home}/base/manifest.json",
    ]


def test_scores_and_metrics_of_every_mask_have_paths_of_their_own():
    paths = StudyWorkflow({}, ROOT, []).paths
    scored = paths.scored(paths.baseline) + paths.scored(paths.ablation, ABLATED_MASKS)
    for recipe, seed in product(paths.recipes, paths.study.seeds):
        scored += paths.scored(paths.evaluated(recipe, seed), MASKS)
    assert len(set(scored)) == len(scored)
    assert not set(scored) & set(paths.every_metrics)
    assert len(paths.every_metrics) == len(scored) * 3 // 4


def repository(folder):
    """A copy of the parts of the repository that fingerprints are made of."""
    for name in ("config", "resources"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "workflow/scripts", folder / "workflow/scripts")
    return folder


TABLES_OF_TRAININGS = [("recovery",), ("flips",), ("curves",), ("published",)]
OTHER_JOBS = [("stage4_posteval", "3B", 31), ("bag_of_words",), ("mask_cells",), ("samples",)]


def test_tables_of_unchecked_code_are_made_again_and_no_model_runs(tmp_path):
    """With the mark in their fingerprints; a reproduction takes it away again."""
    root = repository(tmp_path)

    def made():
        fingerprints = StudyWorkflow({}, root, []).fingerprints
        jobs = [*TABLES_OF_TRAININGS, *OTHER_JOBS, ("pages",), ("stage3_finetune", "3B", 31)]
        return {job: fingerprints.of(*job) for job in jobs}

    plain = made()
    # as if newer code had been accepted, so that nothing else in the fingerprints changes
    code = plain["stage3_finetune", "3B", 31]["code"]
    entry = {"stage": "stage3_finetune", "old": code, "new": "1" * 64, "why": "renamed"}
    write_json(root / "accepted.json", [entry])
    marked = made()
    for job in TABLES_OF_TRAININGS:
        assert marked[job]["unchecked"] == ["stage3_finetune"]
        assert marked[job]["hash"] != plain[job]["hash"]
    assert marked["pages",]["hash"] != plain["pages",]["hash"]
    assert [marked[job] for job in OTHER_JOBS] == [plain[job] for job in OTHER_JOBS]
    checked = {"results/micro/manifest.json": "0" * 64}
    write_json(root / "accepted.json", [entry | {"checked": checked}])
    assert made() == plain


def test_the_code_of_a_table_itself_marks_only_the_tables_made_from_it(tmp_path):
    root = repository(tmp_path)
    code = StudyWorkflow({}, root, []).fingerprints.of("recovery")["code"]
    entry = {"stage": "recovery", "old": code, "new": "1" * 64, "why": "renamed"}
    write_json(root / "accepted.json", [entry])
    made = StudyWorkflow({}, root, []).fingerprints
    assert "unchecked" not in made.of("recovery")
    assert made.of("published")["unchecked"] == ["recovery"]
