"""Promises of evaluation: lm_eval's own numbers, and rows from which they all come back."""

import json
import math

import lm_eval
import pandas as pd
import pytest
import torch
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny import tiny_model, tiny_tokenizer

from ablation.masks import MASKS
from ablation.metrics import item_correct, metrics_from_samples
from ablation.names import METRICS
from ablation.scoring import (
    SAMPLE_COLUMNS,
    MetricsDisagree,
    _check_against_lm_eval,
    evaluate,
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


TASK_CODE = """
import datasets, pathlib
def load(data_folder, file, **metadata):
    path = str(pathlib.Path(data_folder) / file)
    return {"test": datasets.Dataset.from_json(path, cache_dir=data_folder)}
"""
METRIC_LINES = "".join(
    f"  - {{metric: {metric}, aggregation: mean, higher_is_better: true}}\n"
    for metric in ("acc", "acc_norm", "acc_bytes")
)
COMMON = f"""output_type: multiple_choice
custom_dataset: !function data.load
test_split: test
metric_list:
{METRIC_LINES}metadata: {{version: 1.0}}
"""
TASKS = {
    "tiny_endings": 'doc_to_text: "{{query}}"\ndoc_to_choice: choices\ndoc_to_target: gold\n',
    "tiny_letters": 'doc_to_text: "{{query}}"\ndoc_to_choice: ["a", "b"]\ndoc_to_target: answer\n',
    "tiny_partial": "doc_to_text: gold\ndoc_to_choice: contexts\n"
    'doc_to_target: "{{continuation}}"\n',
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder of tasks of three shapes, and a folder of their data."""
    folder = tmp_path_factory.mktemp("study")
    tasks, data = folder / "tasks", folder / "data"
    tasks.mkdir()
    data.mkdir()
    (tasks / "data.py").write_text(TASK_CODE)
    names = ["Eve", "Tom", "Ann", "Bé"]
    documents = {name: [] for name in TASKS}
    for i in range(24):
        query = f"{names[i % 4]} has {i} keys and {names[(i + 1) % 4]} asked for"
        choices = [f"{i + j} of the {names[j]}" + "s" * j for j in range(4)]
        gold = i * 7 % 4
        documents["tiny_endings"].append({"query": query, "choices": choices, "gold": gold})
        documents["tiny_letters"].append({"query": query, "answer": "ab"[i * 5 % 3 % 2]})
        contexts = [f"{query} {name}" for name in names[:2]]
        documents["tiny_partial"].append(
            {"contexts": contexts, "continuation": f"took {i}.", "gold": i * 5 % 3 % 2}
        )
    for name, text in TASKS.items():
        (tasks / f"{name}.yaml").write_text(
            f"task: {name}\n{COMMON}dataset_kwargs: {{file: {name}.jsonl}}\n{text}"
        )
        lines = [json.dumps(document) for document in documents[name]]
        (data / f"{name}.jsonl").write_text("\n".join(lines))
    return tasks, data


@pytest.fixture(scope="module")
def evaluated(study, tokenizer):
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    return {
        mask: evaluate(
            model, tokenizer, list(TASKS), mask, task_folder=study[0], data_folder=study[1]
        )
        for mask in MASKS
    }


def test_metrics_and_hashes_are_those_of_lm_eval_with_stock_hflm(
    study, evaluated, tokenizer, tmp_path
):
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    manager = TaskManager(
        include_path=str(study[0]), include_defaults=False, metadata={"data_folder": str(study[1])}
    )
    theirs = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=4),
        tasks=list(TASKS),
        task_manager=manager,
        bootstrap_iters=0,
    )
    metrics, samples, _ = evaluated["causal"]
    for task in TASKS:
        for metric in ("acc", "acc_norm", "acc_bytes"):
            assert metrics["tasks"][task][metric] == theirs["results"][task][f"{metric},none"]
        mine = samples[samples.task == task]
        for sample in theirs["samples"][task]:
            rows = mine[mine.doc_id == sample["doc_id"]].sort_values("choice")
            for name in ("doc_hash", "prompt_hash", "target_hash"):
                assert set(rows[name]) == {sample[name]}
            expected = [answer[0] for answer in sample["filtered_resps"]]
            assert rows.loglikelihood.tolist() == pytest.approx(expected, abs=1e-4)
            assert rows.is_greedy.tolist() == [answer[1] for answer in sample["filtered_resps"]]
    EvaluationTracker(output_path=str(tmp_path)).save_results_aggregated(theirs, theirs["samples"])
    (written,) = tmp_path.rglob("*.json")
    written = json.loads(written.read_text())
    for name in ("n-samples", "n-shot", "versions", "task_hashes"):
        assert metrics[name] == written[name]


def test_samples_have_one_row_per_item_and_choice(evaluated):
    for mask, (_, samples, _) in evaluated.items():
        assert list(samples.columns) == list(SAMPLE_COLUMNS)
        assert samples.dtypes.astype(str).to_dict() == SAMPLE_COLUMNS
        assert set(samples["mask"]) == {mask}
        assert samples.groupby("task").size().to_dict() == {
            "tiny_endings": 96,
            "tiny_letters": 48,
            "tiny_partial": 48,
        }
        accented = samples[(samples.task == "tiny_endings") & (samples.choice == 3)]
        assert (accented.bytes == accented.characters + 1).all()
        letters = samples[samples.task == "tiny_letters"]
        assert (letters.tokens >= 1).all() and set(letters.characters) == {1}


def test_metrics_come_back_from_the_rows_after_parquet(evaluated, tmp_path):
    for mask, (metrics, samples, _) in evaluated.items():
        samples.to_parquet(tmp_path / f"{mask}.parquet", index=False)
        read = pd.read_parquet(tmp_path / f"{mask}.parquet")
        assert metrics_from_samples(read.sample(frac=1, random_state=0)) == metrics["tasks"]


def test_metrics_by_hand():
    rows = [
        # task, doc, choice, gold, loglikelihood, tokens, characters, bytes, truncated
        ("a", 0, 0, 0, -4.0, 1, 2, 2, False),
        ("a", 0, 1, 0, -3.0, 1, 1, 3, False),  # best by sum; worse per character, better per byte
        ("a", 1, 0, 0, -6.0, 3, 9, 9, True),  # best per token, character and byte
        ("a", 1, 1, 0, -5.0, 1, 2, 2, True),
        ("b", 0, 0, 0, -2.0, 1, 4, 4, False),  # a tie by sum: the first wins
        ("b", 0, 1, 0, -2.0, 2, 4, 4, False),
    ]
    names = ["task", "doc_id", "choice", "gold", "loglikelihood", "tokens", "characters", "bytes"]
    samples = pd.DataFrame(rows, columns=[*names, "truncated"]).assign(
        doc_hash=lambda s: s.task + s.doc_id.astype(str),
        # without rounding, the last choice is the worse one per token
        loglikelihood_float32=lambda s: s.loglikelihood.where(s.tokens != 2, -4.1),
    )
    found = metrics_from_samples(samples)
    exact = {task: metrics.pop("acc_token_float32") for task, metrics in found.items()}
    assert exact == {"a": 0.5, "b": 1.0, "macro": 0.75}
    assert found == {
        "a": dict(acc=0.0, acc_norm=1.0, acc_bytes=0.5, acc_token=0.5, n=2, truncated=1),
        "b": dict(acc=1.0, acc_norm=1.0, acc_bytes=1.0, acc_token=0.0, n=1, truncated=0),
        "macro": dict(acc=0.5, acc_norm=1.0, acc_bytes=0.75, acc_token=0.25, n=3, truncated=1),
    }


def test_choices_without_scored_tokens_come_last_and_of_such_the_first_wins():
    nothing = {"tokens": 0, "loglikelihood": -math.inf, "loglikelihood_float32": -math.inf}
    something = {"tokens": 2, "loglikelihood": -9.0, "loglikelihood_float32": -9.0}
    items = [(nothing, something), (nothing, nothing)]
    rows = [
        {"task": "a", "doc_id": doc, "choice": choice, "gold": 1, "doc_hash": f"{doc}"}
        | {"characters": 3, "bytes": 3, "truncated": False}
        | scores
        for doc, choices in enumerate(items)
        for choice, scores in enumerate(choices)
    ]
    for metric in METRICS:
        assert item_correct(pd.DataFrame(rows), metric)["a"].tolist() == [1, 0]


def test_the_audit_stands_beside_the_scores(evaluated):
    leaks = {mask: metrics["leak_audit"]["leaks"] for mask, (metrics, _, _) in evaluated.items()}
    assert leaks == {"causal": False, "prefill_bidir": False, "full_bidir": True}


def test_limit_takes_the_first_documents(study, evaluated, tokenizer):
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    _, samples, _ = evaluate(model, tokenizer, ["tiny_partial"], "causal", *study, limit=5)
    whole = evaluated["causal"].samples
    expected = whole[(whole.task == "tiny_partial") & (whole.doc_id < 5)]
    assert samples.doc_hash.tolist() == expected.doc_hash.tolist()


def test_rows_that_disagree_with_lm_eval_are_an_error():
    ours = {"a": {"acc": 0.5, "acc_norm": 0.5, "acc_bytes": 0.5}}
    _check_against_lm_eval(ours, {"a": {"acc,none": 0.5}})
    with pytest.raises(MetricsDisagree, match="task a: acc_norm is 0.5.* 0.75.* from lm_eval"):
        _check_against_lm_eval(ours, {"a": {"acc,none": 0.5, "acc_norm,none": 0.75}})


def test_other_kinds_of_tasks_are_refused_by_name(study, tokenizer, tmp_path):
    tasks, data = study
    text = (tasks / "tiny_endings.yaml").read_text()
    (tmp_path / "data.py").write_text(TASK_CODE)
    (tmp_path / "generate.yaml").write_text(
        text.replace("multiple_choice", "generate_until")
        .replace("tiny_endings\n", "generates\n")
        .replace(METRIC_LINES, "  - {metric: exact_match}\n")
        .replace("doc_to_choice: choices\n", "")
    )
    model = tiny_model("llama", vocabulary=len(tokenizer))
    with pytest.raises(ValueError, match="task generates.*output_type is generate_until"):
        evaluate(model, tokenizer, ["generates"], "causal", tmp_path, data)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        evaluate(model, tokenizer, ["generates"], "causal", tmp_path / "missing", data)
