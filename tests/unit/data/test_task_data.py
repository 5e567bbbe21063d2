"""Promises of what tasks read: every split is known before anything runs, and no more."""

from pathlib import Path

import pytest
import yaml

from ablation.data.benchmarks import BENCHMARKS
from ablation.data.task_data import Source, data_sets, source_of, sources

CONFIG = Path(__file__).resolve().parents[3] / "config"


def test_the_data_sets_of_tasks():
    assert data_sets(CONFIG, ["micro_piqa"]) == {}
    assert data_sets(CONFIG, ["published_arc_easy", "arc_easy", "arc_challenge", "piqa"]) == {
        "allenai/ai2_arc": [
            ("ARC-Challenge", "test"),
            ("ARC-Easy", "test"),
            ("ARC-Easy", "validation"),
        ],
        "baber/piqa": [("", "validation")],
    }


def test_the_table_of_benchmarks_and_the_task_files_read_the_same():
    for name, benchmark in BENCHMARKS.items():
        (source,) = sources(CONFIG, name)
        assert source[:3] == benchmark
        text = (CONFIG / f"tasks/benchmarks/published_{name}.yaml").read_text()
        assert f"benchmark: {name}\n" in text


def test_the_data_sets_of_lm_evals_own_tasks_groups_and_tags_are_known():
    assert data_sets(CONFIG, ["openbookqa", "sciq", "boolq"]) == {
        "allenai/openbookqa": [("main", "test")],
        "allenai/sciq": [("", "test")],
        "aps/super_glue": [("boolq", "validation")],
    }
    (subjects,) = data_sets(CONFIG, ["mmlu"]).values()
    assert len(subjects) == 57 and ("anatomy", "test") in subjects
    assert set(data_sets(CONFIG, ["ai2_arc"])) == {"allenai/ai2_arc"}


def test_examples_in_prompts_are_read_from_the_split_of_the_task():
    few = {"allenai/sciq": [("", "test"), ("", "train")]}
    assert data_sets(CONFIG, ["sciq"], 2) == data_sets(CONFIG, ["sciq"], {"sciq": 2}) == few
    assert data_sets(CONFIG, ["sciq"], {"piqa": 2}) == data_sets(CONFIG, ["sciq"])
    assert ("anatomy", "dev") in data_sets(CONFIG, ["mmlu"], 5)["cais/mmlu"]
    assert data_sets(CONFIG, ["truthfulqa_mc1"], 5) == data_sets(CONFIG, ["truthfulqa_mc1"])
    assert data_sets(CONFIG, ["published_piqa"], 5) == data_sets(CONFIG, ["published_piqa"])


SPLITS = {"training_split": "train", "validation_split": "dev", "test_split": "test"}
TASKS = {
    "all splits": (SPLITS, ("test", "train")),
    "no test split": (SPLITS | {"test_split": None}, ("dev", "train")),
    "no training split": (SPLITS | {"training_split": None}, ("test", "dev")),
    "one split": ({"test_split": "test"}, ("test", "test")),
    "a split for examples": (SPLITS | {"fewshot_split": "dev"}, ("test", "dev")),
    "a split of examples": (SPLITS | {"fewshot_config": {"split": "dev"}}, ("test", "dev")),
    "examples in the file": (SPLITS | {"fewshot_config": {"samples": [1]}}, ("test", "")),
    "a part of a split": (SPLITS | {"test_split": "test[:9]"}, None),
    "files": (SPLITS | {"dataset_kwargs": {"data_files": "a.json"}}, None),
    "a function": (SPLITS | {"custom_dataset": "f"}, None),
    "a builder": (SPLITS | {"dataset_path": "json"}, None),
}


@pytest.mark.parametrize("task, splits", TASKS.values(), ids=TASKS)
def test_the_splits_of_a_task_file(tmp_path, task, splits):
    task = {"task": "mine", "dataset_path": "o/d", "dataset_name": "c", "num_fewshot": 3} | task
    found = source_of(task)
    assert found == (splits and Source("o/d", "c", *splits, 3))
    assert found is None or Source.parse(str(found)) == found
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.yaml").write_text(yaml.safe_dump(task))
    parts = {("c", split) for split in splits or () if split}
    assert data_sets(tmp_path, ["mine"]) == ({"o/d": sorted(parts)} if parts else {})
