"""Promises of task files: everything that determines what a task asks is hashed, and no more."""

import gzip
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from ablation.data.task_files import (
    LM_EVAL_NAMES,
    data_files,
    generation_tasks,
    lm_eval_names,
    project_tasks,
    task_hashes,
    task_unscorable_reason,
)

CONFIG = Path(__file__).resolve().parents[3] / "config"
TASK = """
task: NAME
dataset_path: json
output_type: multiple_choice
doc_to_text: "Question: {{q}}"
process_docs: !function inner.code.keep
"""


@pytest.fixture
def folder(tmp_path):
    """A config folder with the tasks `one`, and `two` in a folder of its own."""
    for name, below in (("one", "."), ("two", "other")):
        home = tmp_path / "tasks" / below
        (home / "inner").mkdir(parents=True)
        (home / f"{name}.yaml").write_text(TASK.replace("NAME", name))
        (home / "inner/code.py").write_text("def keep(docs):\n    return docs\n")
        (home / "utils.py").write_text("LIMIT = 3\n")
    (tmp_path / LM_EVAL_NAMES).write_bytes(gzip.compress(b"swag\nsome_group"))
    return tmp_path


def hashes_after(folder, tasks, file, old, new):
    """Hashes before and after an edit of a file."""
    before = task_hashes(folder, tasks)
    text = (folder / "tasks" / file).read_text()
    assert old in text
    (folder / "tasks" / file).write_text(text.replace(old, new))
    return before, task_hashes(folder, tasks)


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("one.yaml", "Question", "Problem"),
        ("inner/code.py", "return docs", "return docs[:3]"),
        ("utils.py", "3", "4"),
    ],
)
def test_a_changed_prompt_or_its_code_changes_a_hash(folder, file, old, new):
    before, after = hashes_after(folder, ["one"], file, old, new)
    assert {name for name in after if before[name] != after[name]} == {file}


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("utils.py", "LIMIT", "# a comment\nLIMIT"),
        ("other/two.yaml", "Question", "Problem"),
        ("other/utils.py", "3", "4"),
    ],
)
def test_a_comment_or_another_task_changes_no_hash(folder, file, old, new):
    before, after = hashes_after(folder, ["one"], file, old, new)
    assert before == after and set(after) == {"one.yaml", "inner/code.py", "utils.py"}


@pytest.mark.parametrize(
    "named",
    [
        "{data_files: data/a.jsonl}",
        "{data_files: [data/a.jsonl]}",
        "{data_files: {test: data/a.jsonl}}",
        "{data_files: {test: ['data/*.jsonl']}}",
        "{data_dir: data, data_files: a.jsonl}",
    ],
)
def test_changed_data_of_a_task_change_a_hash(folder, named, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "data").mkdir()
    (folder / "data/a.jsonl").write_text("1")
    (folder / "data/other.json").write_text("1")
    with open(folder / "tasks/one.yaml", "a") as file:
        file.write(
            f"dataset_kwargs:\n  {named}\n" if named[0] == "d" else f"dataset_kwargs: {named}\n"
        )
    assert data_files(folder, ["one"]) == ["data/a.jsonl"] and data_files(folder, ["two"]) == []
    before = task_hashes(folder, ["one"])
    (folder / "data/a.jsonl").write_text("2")
    after = task_hashes(folder, ["one"])
    assert {name for name in after if before[name] != after[name]} == {"data/a.jsonl"}


@pytest.mark.parametrize(
    "entries",
    ["dataset_path: data", "dataset_path: json\ndataset_kwargs: {data_dir: data}"],
)
def test_every_file_of_a_data_folder_changes_a_hash(folder, entries, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "data/inner").mkdir(parents=True)
    for name in ("data/a.jsonl", "data/inner/b.jsonl"):
        (folder / name).write_text("1")
    task = TASK.replace("NAME", "one").replace("dataset_path: json", entries)
    (folder / "tasks/one.yaml").write_text(task)
    assert data_files(folder, ["one"]) == ["data/a.jsonl", "data/inner/b.jsonl"]
    before = task_hashes(folder, ["one"])
    (folder / "data/inner/b.jsonl").write_text("2")
    after = task_hashes(folder, ["one"])
    assert {name for name in after if before[name] != after[name]} == {"data/inner/b.jsonl"}


def test_missing_data_files_are_listed_and_data_on_the_hub_are_not(folder, monkeypatch):
    monkeypatch.chdir(folder)
    text = TASK.replace("NAME", "one")
    kwargs = "dataset_kwargs: {data_files: {test: [gone.jsonl, 'https://example.org/a.jsonl']}}\n"
    (folder / "tasks/one.yaml").write_text(text + kwargs)
    assert data_files(folder, ["one"]) == ["gone.jsonl"]
    assert "gone.jsonl" not in task_hashes(folder, ["one"])
    hub = text.replace("dataset_path: json", "dataset_path: owner/name")
    (folder / "tasks/two.yaml").write_text(hub.replace("task: one", "task: two") + kwargs)
    (folder / "tasks/other/two.yaml").unlink()
    assert data_files(folder, ["two"]) == []


def test_modules_that_the_code_of_a_task_imports_are_hashed_too():
    hashed = task_hashes(CONFIG, ["published_piqa"])
    assert {
        "benchmarks/published_piqa.yaml",
        "benchmarks/utils.py",
        "ablation.data.benchmarks",
    } <= {*hashed}
    modules = {name for name in task_hashes(CONFIG, ["micro_piqa"]) if name.startswith("ablation.")}
    assert modules == {"ablation.data.json_lines"}


def test_a_group_of_lm_eval_may_contain_any_task_of_this_project(folder):
    before, after = hashes_after(folder, ["some_group"], "other/two.yaml", "Question", "Problem")
    assert before != after


def test_task_files_have_the_names_that_lm_eval_reads():
    ours = TaskManager(include_path=str(CONFIG / "tasks"), include_defaults=False)
    assert sorted(project_tasks(CONFIG)) == ours.all_tasks == ours.all_subtasks
    for name in ours.all_tasks:
        assert task_unscorable_reason(name, CONFIG) == ""
        hashed = task_hashes(CONFIG, [name])
        assert ours.task_index[name].yaml_path.relative_to(CONFIG / "tasks").as_posix() in hashed


def test_the_list_of_lm_evals_tasks_has_the_reasons_why_some_cannot_be_scored():
    names = lm_eval_names(CONFIG)
    for scored in ("hellaswag", "mmlu", "ai2_arc", "swag"):  # a task, a group, a tag
        assert names[scored] == ""
    for generated in ("gsm8k", "bbh", "nq_open"):
        assert names[generated] == "" and generation_tasks(CONFIG, [generated]) == [generated]
    assert generation_tasks(CONFIG, ["hellaswag", "micro_open", "micro_piqa"]) == ["micro_open"]
    assert names["gsm8k_cot_self_consistency"] == "64 texts an item (repeats)"
    assert names["truthfulqa_gen"] == "its own metrics (process_results)"
    assert not any("/" in why for why in names.values())  # no path of a machine
    assert names["lambada_openai"] == "loglikelihood"
    assert names["wikitext"] == "loglikelihood_rolling"
    assert "process_results" in names["truthfulqa_mc2"]
