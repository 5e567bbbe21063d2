"""A small study whose conditions a tiny model is scored under for real: two tasks of 8 items."""

import json
from pathlib import Path

import lm_eval
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from ablation.data.task_files import task_hashes
from ablation.provenance.files import canonical_json, sha256_text, write_json
from ablation.provenance.manifests import write_manifest
from ablation.scoring.evaluate import evaluate
from ablation.scoring.items import Items
from tests.support.tiny import tiny_model

CODE = """
import datasets, pathlib
def load(data_folder, file, **metadata):
    path = str(pathlib.Path(data_folder) / file)
    return {"test": datasets.Dataset.from_json(path, cache_dir=data_folder + "/../cache")}
"""
TASK = """task: {name}
output_type: multiple_choice
custom_dataset: !function data.load
dataset_kwargs: {{file: {name}.jsonl}}
test_split: test
doc_to_text: "{{{{query}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
TASKS = ("tiny_keys", "published_keys")
HOME = "results/own"
CONDITIONS = {
    "stage1_baseline": ("causal", {}),
    "stage2_ablation/prefill_bidir": ("prefill_bidir", {}),
    "stage4_posteval/3B/seed1/full_bidir": (
        "full_bidir",
        {"recipe": "3B", "seed": 1, "train_leaks": True},
    ),
}
LEAKING = "own/3B-seed1-full_bidir-LEAKS-train-eval"


def write(tokenizer):
    """Write the study into the working directory, scored by a tiny model."""
    data, tasks = Path(HOME) / "base/items", Path("config/tasks")
    data.mkdir(parents=True)
    tasks.mkdir(parents=True)
    (tasks / "data.py").write_text(CODE)
    for name in TASKS:
        (tasks / f"{name}.yaml").write_text(TASK.format(name=name))
        lines = [
            {
                "query": f"Bé has {i} keys and",
                "choices": [f"{j}0 of them" + "s" * j for j in range(3)],
                "gold": i * 7 % 3,
                "cluster": f"c{i // 2}",
            }
            for i in range(8)
        ]
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files = [data / f"{name}.jsonl" for name in TASKS]
    items = manifest(data / "manifest.json", "base_items", {}, files)
    Path(f"{HOME}/base/weights.json").write_text("{}")
    base = Path(f"{HOME}/base/manifest.json")
    upstream = items | manifest(base, "base", {}, [base.with_name("weights.json")])
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    built = Items(tokenizer, list(TASKS), tasks, data)
    config = {"evaluation": {"tasks": list(TASKS), "row_tokens": 64, "batch_tokens": 64}}
    config["task_files"] = task_hashes(Path("config"), TASKS)
    for place, (mask, facts) in CONDITIONS.items():
        home = Path(HOME) / place
        home.mkdir(parents=True)
        result = evaluate(model, built, mask, "m", logits_dtype="float32")
        facts = facts | {"mask": mask, "eval_leaks": result.facts["leak_audit"]["leaks"]}
        facts["circumstances"] = {"lm_eval": lm_eval.__version__, "dtype": "float32"}
        manifest(home / "manifest.json", "stage", config, result.write(home), upstream, **facts)
        write_json(home / "run.json", {"date": 1795486726.54, "seconds": 1.5, "git_hash": "abc"})


def lm_evals_files(lm, task, tasks, data, folder):
    """The folder, below `folder`, in which lm-eval itself writes its scores of a model.

    tasks: the folder of the task's file. data: its `data_folder`.
    """
    tracker = EvaluationTracker(output_path=str(folder))
    metadata = {"data_folder": str(data)}
    manager = TaskManager(include_path=str(tasks), include_defaults=False, metadata=metadata)
    theirs = lm_eval.simple_evaluate(
        lm, tasks=[task], task_manager=manager, evaluation_tracker=tracker
    )
    samples = theirs.pop("samples")
    tracker.save_results_aggregated(theirs, samples)
    tracker.save_results_samples(task, samples[task])
    (file,) = folder.rglob("results_*.json")
    return file.parent


def manifest(path, stage, config, outputs, upstream=None, **facts):
    """Write a manifest; returns {its path: the hash of its fingerprint}."""
    body = {"stage": stage, "code": "c", "config": config, "packages": {}}
    body["upstream"] = upstream or {}
    fingerprint = body | {"hash": sha256_text(canonical_json(body))}
    write_manifest(path, fingerprint, outputs, **facts)
    return {path.as_posix(): fingerprint["hash"]}
