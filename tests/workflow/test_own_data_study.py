"""Promise: a study of a base, records and benchmarks in folders of the user runs without a hub."""

import json
import shutil
import sys

import pandas as pd
import pytest
import yaml
from conftest import ROOT, Checkout, copy_of_the_repository

sys.path.insert(0, str(ROOT))
from tests.support import benchmarks

pytestmark = pytest.mark.study

RECORDS = [
    {
        "messages": [
            {"role": "user", "content": f"Say {n}."},
            {"role": "assistant", "content": f"{n}"},
        ]
    }
    for n in range(40)
]
STUDY = {
    "study": "own",
    "base": "../mine/base",
    "instructions": {"data": "../mine/records"},
    "seeds": [1],
    "finetune": {"max_steps": 2, "warmup_steps": 1, "batch_examples": 4, "micro_batch_examples": 4}
    | {"log_steps": 1, "save_steps": 2, "eval_steps": 2, "eval_samples": 2}
    | {"stops": {"no_learning": None}},
    "recipes": {"3B": {"train_mask": "prefill_bidir"}},
    "evaluation": {"tasks": ["micro_piqa", "winogrande", "arc_easy", "published_arc_easy"]}
    | {"data_folder": "../mine/data", "limit": 5},
}
RESULTS = "results/own"
TARGETS = [f"{RESULTS}/stage4_posteval/3B/seed1/causal/metrics.json"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    home = tmp_path_factory.mktemp("own")
    checkout = Checkout(copy_of_the_repository(home / "clone"), preloaded=True)
    shutil.copytree(ROOT / "resources/micro/base", home / "mine/base")
    (home / "mine/records").mkdir()
    checkout.records = home / "mine/records/train-00000-of-00001.jsonl"
    checkout.records.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    checkout.data = benchmarks.write_copies(home / "mine/data", odd=False)
    (checkout.folder / "own.yaml").write_text(yaml.safe_dump(STUDY))
    checkout.options = ("--configfile", "own.yaml")
    checkout.run(*TARGETS, *checkout.options)
    return checkout


def manifest(own, path):
    return json.loads((own.folder / RESULTS / path / "manifest.json").read_text())


def test_the_records_of_the_user_are_learned_and_hashed(own):
    lines = (own.folder / RESULTS / "base/instructions/finetune.jsonl").read_text().splitlines()
    assert len(lines) == len(RECORDS)
    assert json.loads(lines[7]) == {"instruction": "Say 7.", "input": "", "output": "7"}
    config = manifest(own, "base/instructions")["fingerprint"]["config"]
    assert {*config} == {"files"} and {*config["files"]} == {own.records.name}


def test_the_base_of_the_user_is_hashed_file_by_file(own):
    base = manifest(own, "base")
    names = {name.rpartition("/")[2] for name in base["outputs"]}
    assert names == {file.name for file in (own.records.parents[1] / "base").iterdir()}
    assert base["stock_agreement"]["agrees"]


def test_the_data_of_the_user_are_scored_and_hashed_split_by_split(own):
    path = own.folder / RESULTS / "base/items/benchmarks.manifest.json"
    items = json.loads(path.read_text())
    arc = "allenai/ai2_arc/ARC-Easy"
    names = {f"{arc}/{split}-00000-of-00001.parquet" for split in ("test", "validation")}
    names |= {"allenai/winogrande/winogrande_xl/validation.jsonl"}
    assert {*items["outputs"]} == names == {*items["fingerprint"]["config"]["files"]}
    samples = pd.read_parquet(
        own.folder / RESULTS / "stage4_posteval/3B/seed1/causal/samples.parquet"
    )
    assert set(samples.task) == {*STUDY["evaluation"]["tasks"]}


def test_another_item_makes_exactly_the_scores_stale_and_another_place_nothing(own):
    file = own.data / "allenai/winogrande/winogrande_xl/validation.jsonl"
    text = file.read_text()
    file.write_text(text.replace("Ann", "Eva"))
    stale = {"base_benchmarks", "stage4_posteval:3B", "stage4_metrics"}
    assert own.stale(*TARGETS, options=own.options) == stale
    file.write_text(text)
    moved = own.data.rename(own.data.with_name("moved"))
    other = STUDY | {"evaluation": STUDY["evaluation"] | {"data_folder": "../mine/moved"}}
    (own.folder / "moved.yaml").write_text(yaml.safe_dump(other))
    assert own.stale(*TARGETS, options=("--configfile", "moved.yaml")) == set()
    moved.rename(own.data)


def test_another_record_makes_exactly_the_trainings_and_their_scores_stale(own):
    text = own.records.read_text()
    assert own.stale(*TARGETS, options=own.options) == set()
    own.records.write_text(text.replace("Say 7.", "Say seven."))
    stale = {"base_instructions", "stage3_finetune:3B", "stage4_posteval:3B", "stage4_metrics"}
    assert own.stale(*TARGETS, options=own.options) == stale
    own.records.write_text(text)
    assert own.stale(*TARGETS, options=own.options) == set()


PRINT = """
from ablation.workflow.load import StudyWorkflow
import yaml
study = yaml.safe_load(open("own.yaml"))
made = StudyWorkflow(study, __import__("pathlib").Path("."), [], main=False).fingerprints
print(made.of("stage4_posteval", "3B", 1)["hash"], made.of("stage3_finetune", "3B", 1)["hash"])
"""


def test_a_machine_that_has_only_the_inputs_of_a_job_expects_the_same_of_it(own):
    here = own.python("-c", PRINT).stdout
    mine = own.records.parents[1].rename(own.folder.parent / "gone")
    assert own.python("-c", PRINT).stdout == here
    refused = own.snakemake("-n", *TARGETS, *own.options, check=False)
    mine.rename(own.folder.parent / "mine")
    assert refused.returncode and "own.yaml" in refused.stdout
    for key in ("base", "instructions.data", "evaluation.data_folder"):
        assert f"{key} (own.yaml:" in refused.stdout
