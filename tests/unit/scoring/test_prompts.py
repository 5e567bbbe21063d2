"""Promises of prompts: with examples, chat templates and local data they are stock lm_eval's.

Stock lm_eval reads the same files through the library `datasets`, with none of this project's code.
"""

import json
import os
from pathlib import Path

import datasets
import lm_eval
import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ablation.data.task_data import data_sets
from ablation.scoring.items import Items
from ablation.scoring.masked_lm import MaskedLM
from tests.support import benchmarks
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = Path(__file__).resolve().parents[3] / "config"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PLAIN = {
    "dataset_path": "owner/plain",
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{query}}\nA:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1.0},
}
EVERY = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
# {kind: what a task file says of its splits and examples}
KINDS = {
    "every_split": EVERY,
    "no_test_split": EVERY | {"test_split": None},
    "no_training_split": EVERY | {"training_split": None},
    "test_alone": {"test_split": "test"},
    "validation_alone": {"validation_split": "validation"},
    "split_for_examples": EVERY
    | {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}},
    "examples_from_the_scored": EVERY | {"fewshot_split": "test"},
    "number_in_the_file": EVERY | {"num_fewshot": 3},
    "none_in_the_file": EVERY | {"num_fewshot": 0},
    "described": EVERY | {"description": "Choose.\n\n"},
}
STOCK = ("hellaswag", "winogrande", "arc_easy")  # processed documents, several contexts


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder of task files and a folder of data in the hub's layout."""
    home = tmp_path_factory.mktemp("prompts")
    tasks, data = home / "tasks", benchmarks.write_copies(home / "data", odd=False)
    tasks.mkdir()
    for kind, entries in KINDS.items():
        (tasks / f"{kind}.yaml").write_text(yaml.safe_dump({"task": kind} | PLAIN | entries))
    (data / "owner/plain").mkdir(parents=True)
    for start, split in enumerate(("train", "validation", "test", "dev")):
        documents = [
            {
                "query": f"who has key {n} of {start}?",
                "choices": [f"Eve {n}", "Tom", "Ann"],
                "gold": n % 3,
            }
            for n in range(8)
        ]
        text = "".join(json.dumps(document) + "\n" for document in documents)
        (data / f"owner/plain/{split}-00000-of-00001.jsonl").write_text(text)
    for name, split in (("ARC-Easy", "test"), ("ARC-Challenge", "test")):  # a copy for examples
        folder = data / "allenai/ai2_arc" / name
        (folder / "train-0.parquet").write_bytes(next(folder.glob(f"{split}-*")).read_bytes())
    xl = data / "allenai/winogrande/winogrande_xl"
    (xl / "train.jsonl").write_text((xl / "validation.jsonl").read_text())
    more = data / "Rowan/hellaswag/data"
    (more / "train-00000-of-00001.parquet").write_bytes(
        (more / "validation-00000-of-00001.parquet").read_bytes()
    )
    return tasks, data


@pytest.fixture
def stock_reads(places, monkeypatch, tmp_path):
    """Lets stock lm_eval read the data with the library `datasets`."""
    read = datasets.load_dataset

    def load_dataset(path, name=None, **options):
        home = places[1] / path / (name or "")
        files = {file for file in home.rglob("*") if file.is_file()}
        kind = {".jsonl": "json", ".parquet": "parquet"}[min(files).suffix]
        found = {s: [str(f) for f in files if f.name.replace("_", "-").replace("piqa-", "")
                 .startswith(s)] for s in ("train", "validation", "test", "dev")}  # fmt: skip
        return read(kind, data_files={s: f for s, f in found.items() if f}, cache_dir=str(tmp_path))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


class Recorder(HFLM):
    """A model that keeps the requests of lm_eval."""

    def loglikelihood(self, requests, disable_tqdm=False):
        self.seen = {}
        for request in requests:
            self.seen.setdefault(request.task_name, []).append(request.args)
        return [(-1.0, False)] * len(requests)


def ours(tokenizer, tasks, places, **options):
    """{task: its requests} of the items of a job."""
    items = Items(tokenizer, tasks, *places, **options)
    found = {}
    for part in items.by_protocol:
        loaded = part._loaded["tasks"]
        of_task = {n: [i.args for made in task.items for i in made] for n, task in loaded.items()}
        assert part.requests == [request for requests in of_task.values() for request in requests]
        found |= of_task
    return found


def theirs(tokenizer, tasks, folder, **options):
    """{task: its requests} of stock lm_eval."""
    lm = Recorder(
        pretrained=tiny_model("llama", vocabulary=len(tokenizer)),
        tokenizer=tokenizer,
        backend="causal",
    )
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    lm_eval.simple_evaluate(
        lm, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, log_samples=False, **options
    )
    return lm.seen


@pytest.fixture
def chatting(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE, raising=False)
    return tokenizer


@pytest.mark.parametrize("number", [None, 0, 2])
@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("kinds", ["own", "stock"])
def test_requests_are_those_of_stock_lm_eval(kinds, chat, number, places, chatting, stock_reads):
    tasks, folder = (list(KINDS), places[0]) if kinds == "own" else (STOCK, CONFIG / "tasks")
    mine = ours(chatting, tasks, (folder, places[1]), num_fewshot=number, chat_template=chat)
    expected = theirs(chatting, tasks, folder, num_fewshot=number, apply_chat_template=chat)
    assert mine.keys() == expected.keys() == {*tasks}
    for task in tasks:
        assert mine[task] == expected[task], task
    first = mine[tasks[-1]][0][0]
    assert ("<assistant>" in first) == chat
    if kinds == "own":
        shown = {task: requests[0][0].count("Q: ") for task, requests in mine.items()}
        asked = number or 0
        own = {"number_in_the_file": 3 if number is None else number, "none_in_the_file": 0}
        assert shown == {task: 1 + own.get(task, asked) for task in KINDS}


def test_a_number_by_task_leaves_the_other_tasks_as_they_are(places, chatting, stock_reads):
    tasks = ["every_split", "test_alone", "number_in_the_file"]
    mine = ours(chatting, tasks, places, num_fewshot={"test_alone": 2})
    assert mine["test_alone"] == theirs(chatting, tasks, places[0], num_fewshot=2)["test_alone"]
    expected = theirs(chatting, tasks, places[0])
    assert {t for t in tasks if mine[t] == expected[t]} == {*tasks} - {"test_alone"}


def test_a_task_without_examples_reads_the_scored_split_alone(places, tokenizer, tmp_path):
    (tmp_path / "owner/plain").mkdir(parents=True)
    file = "owner/plain/test-00000-of-00001.jsonl"
    (tmp_path / file).write_bytes((places[1] / file).read_bytes())
    assert ours(tokenizer, ["every_split"], (places[0], tmp_path))
    with pytest.raises(FileNotFoundError, match="no train split found: .*owner/plain/train"):
        ours(tokenizer, ["every_split"], (places[0], tmp_path), num_fewshot=1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_split_that_prompts_are_made_of_is_known_before_anything_runs(
    kind, places, tokenizer, tmp_path
):
    """Only the splits of `data_sets` are in the folder."""
    for number in (0, 2):
        folder = tmp_path / str(number) / "owner/plain"
        folder.mkdir(parents=True)
        (parts,) = data_sets(places[0].parent, [kind], number).values()
        for _, split in parts:
            file = f"{split}-00000-of-00001.jsonl"
            (folder / file).write_bytes((places[1] / "owner/plain" / file).read_bytes())
        wanted = ours(tokenizer, [kind], places, num_fewshot=number)
        copies = (places[0], tmp_path / str(number))
        assert ours(tokenizer, [kind], copies, num_fewshot=number) == wanted


def test_the_published_protocol_has_no_examples_and_no_template(places, chatting):
    folder = (CONFIG / "tasks", places[1])
    bare = ours(chatting, ["published_arc_easy"], folder)
    dressed = ours(
        chatting, ["published_arc_easy", "arc_easy"], folder, num_fewshot=2, chat_template=True
    )
    assert dressed["published_arc_easy"] == bare["published_arc_easy"]


def test_a_tokenizer_without_a_template_is_refused(places, tokenizer):
    with pytest.raises(ValueError, match="chat_template is true, but the tokenizer .* has no chat"):
        Items(tokenizer, ["every_split"], *places, chat_template=True)


def test_a_chat_is_encoded_as_lm_eval_encodes_it(places, chatting):
    model = tiny_model("llama", vocabulary=len(chatting))
    items = Items(chatting, ["every_split", "described"], *places, chat_template=True)
    part = items.by_protocol[0]
    lm = MaskedLM(model, chatting)
    stock = HFLM(pretrained=model, tokenizer=chatting, backend="causal")
    for (context, continuation), (_, first, second) in zip(
        part.requests, [one for block in part.encoded(lm) for one in block], strict=True
    ):
        assert (first, second) == stock._encode_pair(context, continuation)


@pytest.mark.skipif(
    os.environ.get("ABLATION_STUDY") != "whole",
    reason="make test-study reads lm_eval's 14,000 files",
)
def test_lm_evals_own_tasks_read_the_folder(tokenizer, places, tmp_path):
    document = {"question": "who has it?", "support": " Eve has it.", "correct_answer": "Eve"}
    document |= {f"distractor{n}": name for n, name in enumerate(["Tom", "Ann", "Bé"], 1)}
    (tmp_path / "allenai/sciq/data").mkdir(parents=True)
    (tmp_path / "allenai/sciq/data/test-0.jsonl").write_text(json.dumps(document) + "\n")
    (tmp_path / "aps/super_glue/boolq").mkdir(parents=True)
    document = {"passage": "Eve has it.", "question": "has she", "label": 1}
    (tmp_path / "aps/super_glue/boolq/validation-0.jsonl").write_text(json.dumps(document) + "\n")
    found = ours(tokenizer, ["sciq", "boolq"], (CONFIG / "tasks", tmp_path))
    assert found["sciq"][3] == ("Eve has it.\nQuestion: who has it?\nAnswer:", " Eve")
    assert found["boolq"] == [
        ("Eve has it.\nQuestion: has she?\nAnswer:", f" {w}") for w in ("no", "yes")
    ]
