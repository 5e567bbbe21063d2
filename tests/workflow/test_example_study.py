"""Promise: a user who follows docs/tutorial.md has a study that loads and plans its jobs."""

import json
import re
import shutil
import sys

import pytest
import yaml
from conftest import ROOT, Checkout, copy_of_the_repository

sys.path.insert(0, str(ROOT))
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.study
TUTORIAL = (ROOT / "docs/tutorial.md").read_text("utf-8")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the repository, with the tutorial's files beside it: model, records and items."""
    home = tmp_path_factory.mktemp("tutorial")
    checkout = Checkout(copy_of_the_repository(home / "clone"))
    for made in (tiny_model("llama", vocabulary=320), tiny_tokenizer()):
        made.save_pretrained(home / "my-model")
    (home / "my-data").mkdir()
    for name, beginning in (("records", '{"messages"'), ("my_task", '{"question"')):
        (line,) = examples(beginning)
        (home / f"my-data/{name}.jsonl").write_text(f"{line}\n" * 100)
    return checkout


def examples(*beginnings):
    """The lines of the tutorial that begin in one of these ways."""
    return [line for line in TUTORIAL.splitlines() if line.startswith(beginnings)]


def settings():
    """The tutorial's changes of the example."""
    lines = examples("base:", "instructions:", "evaluation: {tasks")
    return {key: value for line in lines for key, value in yaml.safe_load(line).items()}


def jobs(done):
    return dict(re.findall(r"^(\w+) +(\d+)$", done.stdout.split("Job stats:")[1], re.M))


def dry_run(clone, name):
    options = ("--quiet", "rules", "--configfile", f"config/{name}.yaml")
    return clone.snakemake("-n", *options, "--", f"results/{name}/recovery.csv")


def test_the_example_runs_as_it_is(clone):
    found = jobs(dry_run(clone, "example"))
    assert (found["stage3_finetune"], found["stage4_posteval"]) == ("6", "6")


def test_a_copy_with_a_model_records_and_a_task_of_ones_own_is_planned(clone):
    task = (clone.folder / "config/tasks/example_task.yaml").read_text("utf-8")
    task = task.replace("task: example_task", "task: my_task", 1)
    task = task.replace("resources/example/items.jsonl", "../my-data/my_task.jsonl")
    (clone.folder / "config/tasks/my_task.yaml").write_text(task)
    study = yaml.safe_load((clone.folder / "config/example.yaml").read_text("utf-8"))
    study |= settings()
    (clone.folder / "config/mine.yaml").write_text(yaml.safe_dump(study | {"study": "mine"}))
    found = jobs(dry_run(clone, "mine"))
    assert found["stage3_finetune"] == "6" and found["base_instructions"] == "1"

    # Each of the three is read: without it the study is refused by its key.
    for gone, key in (("my-model", "base"), ("my-data/records.jsonl", "instructions.data")):
        place = clone.folder.parent / gone
        shutil.move(place, f"{place}.away")
        refused = clone.snakemake("-n", "--configfile", "config/mine.yaml", check=False)
        shutil.move(f"{place}.away", place)
        assert refused.returncode and f"{key} (config/mine.yaml:" in refused.stdout
    (clone.folder.parent / "my-data/my_task.jsonl").unlink()
    refused = clone.snakemake("-n", "--configfile", "config/mine.yaml", check=False)
    assert refused.returncode and "../my-data/my_task.jsonl" in refused.stdout


def test_every_line_of_json_in_the_tutorial_is_json():
    lines = examples("{")
    assert len(lines) == 3 and all(json.loads(line) for line in lines)
