"""Promises of evaluation: rows and facts that give lm_eval's own numbers, and its hashes."""

import json

import lm_eval
import pandas as pd
import pytest
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ablation.analysis.metrics import metrics_from_samples, study_metrics
from ablation.data.sample_rows import SAMPLE_COLUMNS
from ablation.scoring.evaluate import evaluate
from ablation.scoring.items import Items
from ablation.vocabulary.masks import MASKS
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


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
    items = Items(tokenizer, list(TASKS), *study)
    return {mask: evaluate(model, items, mask) for mask in MASKS}


def test_metrics_and_hashes_are_those_of_lm_eval_with_stock_hflm(
    study, evaluated, tokenizer, tmp_path
):
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    manager = TaskManager(
        include_path=str(study[0]), include_defaults=False, metadata={"data_folder": str(study[1])}
    )
    theirs = lm_eval.simple_evaluate(
        HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=4,
            logits_cache=False,  # docs/footguns.md
        ),
        tasks=list(TASKS),
        task_manager=manager,
        bootstrap_iters=0,
    )
    facts, samples, _ = evaluated["causal"]
    metrics = study_metrics(samples, facts)  # raises where the rows disagree with lm_eval
    for task in TASKS:
        for metric in ("acc", "acc_norm", "acc_bytes"):
            expected = theirs["results"][task][f"{metric},none"]
            assert metrics["tasks"][task][metric] == facts["lm_eval"][task][metric] == expected
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
        assert metrics[name] == facts[name] == written[name]


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


def test_metrics_come_back_from_the_files_in_whatever_order_the_rows_are(evaluated, tmp_path):
    for mask, result in evaluated.items():
        folder = tmp_path / mask
        folder.mkdir()
        written = {path.name: path for path in result.write(folder)}
        assert json.loads(written["evaluation.json"].read_text()) == result.facts
        read = pd.read_parquet(written["samples.parquet"]).sample(frac=1, random_state=0)
        expected = study_metrics(result.samples, result.facts)["tasks"]
        assert metrics_from_samples(read) == expected


def test_the_audit_is_recorded_with_the_scores(evaluated):
    leaks = {mask: result.facts["leak_audit"]["leaks"] for mask, result in evaluated.items()}
    assert leaks == {"causal": False, "prefill_bidir": False, "full_bidir": True}


def test_limit_takes_the_first_documents(study, evaluated, tokenizer):
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    items = Items(tokenizer, ["tiny_partial"], *study, limit=5)
    samples = evaluate(model, items, "causal").samples
    whole = evaluated["causal"].samples
    expected = whole[(whole.task == "tiny_partial") & (whole.doc_id < 5)]
    assert samples.doc_hash.tolist() == expected.doc_hash.tolist()


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
    with pytest.raises(ValueError, match="task generates.*output_type is generate_until"):
        Items(tokenizer, ["generates"], tmp_path, data)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Items(tokenizer, ["generates"], tmp_path / "missing", data)
