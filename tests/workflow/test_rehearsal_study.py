"""Promises: a rehearsal runs stages 0 to 5 from random weights and says what its numbers are worth;
a study from the hub runs from the hub's cache alone, and names what it lacks."""

import json

import pandas as pd
import pytest
import yaml
from conftest import SEEDS, Checkout, copy_of_the_repository

pytestmark = [pytest.mark.study, pytest.mark.long]

TASKS = ["arc_easy", "published_arc_easy", "micro_piqa"]
AS_PUBLISHED = {
    "format": "published",
    "optimizer": "adafactor_plain",
    "micro_batch_examples": 1,
    "max_examples": 100,
}
TOY = {
    "study": "toy",
    "base": "random",
    "instructions": {"data": "yahma/alpaca-cleaned", "count": 120},
    "seeds": [1],
    "hardware": {"dtype": "bfloat16"},
    "finetune": {
        "max_steps": 4,
        "warmup_steps": 1,
        "batch_examples": 4,
        "micro_batch_examples": 2,
        "max_seq_len": 256,
        "log_steps": 2,
        "save_steps": 2,
        "eval_steps": 2,
        "eval_samples": 2,
        "optimizer": "adafactor_bf16",
        "stops": {"no_learning": None, "leak": None},
    },
    "recipes": {
        "3B": {"train_mask": "prefill_bidir"},
        "3A-as-published": {"train_mask": "causal"} | AS_PUBLISHED,
        "3B-as-published": {"train_mask": "prefill_bidir"} | AS_PUBLISHED,
        "5A": {
            "train_mask": "prefill_bidir",
            "stops": {"plateau": {"patience": 1, "min_delta": 50.0, "min_steps": 2}},
        },
    },
    "evaluation": {"tasks": TASKS, "limit": 6, "row_tokens": 256},
}


def started(checkout, name, config):
    (checkout.folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return ["--configfile", f"{name}.yaml"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = copy_of_the_repository(tmp_path_factory.mktemp("toy"))
    checkout = Checkout(folder, preloaded=len(SEEDS) == 1)
    checkout.options = started(checkout, "toy", TOY)
    checkout.run("results/toy/recovery.csv", "results/toy/published.csv", *checkout.options)
    return checkout


def test_stages_0_to_5_run_from_random_weights(toy):
    results = toy.folder / "results/toy"
    for stage in ("stage3_finetune/3B", "stage5_longrun/5A"):
        summary = json.loads((results / stage / "seed1/summary.json").read_text())
        assert summary["recipe"]["optimizer"] == "adafactor_bf16" and summary["steps"] in (2, 4)
    assert json.loads((results / "stage5_longrun/5A/seed1/summary.json").read_text())[
        "stop_reason"
    ].startswith("plateau")
    table = pd.read_csv(results / "recovery.csv")
    assert set(table.recipe) == set(TOY["recipes"])
    assert set(table.task) == {*TASKS, "macro", "published_macro"}
    counts = table.set_index("task").n.to_dict()
    assert counts["macro"] == 12 and counts["published_macro"] == 6
    assert toy.preloaded or toy.seconds < 300


def test_the_arms_as_published_are_trained_as_published_and_are_each_others_control(toy):
    results = toy.folder / "results/toy"
    for name in ("3A-as-published", "3B-as-published"):
        summary = json.loads((results / f"stage3_finetune/{name}/seed1/summary.json").read_text())
        assert AS_PUBLISHED.items() <= summary["recipe"].items() and summary["steps"] == 4
        assert (summary["train_examples"], summary["heldout_examples"]) == (100, 3)  # 2.4 of 120
    table = pd.read_csv(results / "recovery.csv")
    ablated = table[(table["mask"] != "causal") & (table.seed.astype(str) == "all")]
    status = ablated.groupby("recipe").net_recovered_status.unique()
    assert set(status["3B"]) == {"no_control"} and "no_control" not in status["3B-as-published"]


def test_its_tables_and_its_folder_say_that_the_numbers_mean_nothing(toy):
    results = toy.folder / "results/toy"
    table = pd.read_csv(results / "recovery.csv")
    assert table.comparable.str.startswith("false: random weights, a rehearsal").all()
    beside = pd.read_csv(results / "published.csv")
    ours = beside[beside.source == "ours"]
    assert ours.note.str.contains("accuracies mean nothing").all() and len(ours)
    notice = (results / "README.md").read_text()
    assert "# toy: a rehearsal" in notice and "mean\nnothing" in notice


def test_what_is_done_stays_done_and_other_weights_are_another_base(toy):
    assert toy.stale("results/toy/recovery.csv", options=toy.options) == set()
    other = started(toy, "other", TOY | {"random": {"layers": 3}})
    stale = toy.stale("results/toy/recovery.csv", options=other)
    assert stale >= {"base_random", "base", "stage1_baseline", "stage3_finetune:3B", "recovery"}
    assert not stale & {"base_benchmarks", "base_instructions", "base_items"}


def test_made_up_texts_stand_where_the_hubs_would(toy):
    manifest = json.loads(
        (toy.folder / "results/toy/base/items/benchmarks.manifest.json").read_text()
    )
    folder = "allenai/ai2_arc/ARC-Easy"
    assert set(manifest["outputs"]) == {f"{folder}/test.jsonl", f"{folder}/validation.jsonl"}
    lines = (toy.folder / "results/toy/base/instructions/finetune.jsonl").read_text().splitlines()
    assert len(lines) == 120 and set(json.loads(lines[0])) == {"instruction", "input", "output"}
