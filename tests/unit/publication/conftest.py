"""A small study with real checkpoints, tasks of a data set on the hub, and a recipe that leaks."""

import shutil

import pytest

from ablation.provenance.files import sha256_text
from tests.support.small_results import make
from tests.support.tiny import tiny_model, tiny_tokenizer

TASK = "task: a\ndataset_path: allenai/ai2_arc\ndataset_name: ARC-Easy\n"
COMMIT = "1" * 40


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a tiny model with its tokenizer."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizer = tiny_tokenizer()
    tiny_model("llama", vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory, trained):
    """The study, made once; task a is on the hub, task b is nowhere."""
    root = tmp_path_factory.mktemp("study")
    tasks = root / "config/tasks"
    tasks.mkdir(parents=True)
    (tasks / "a.yaml").write_text(TASK)

    def write_model(folder):
        for file in trained.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        make(
            root,
            recipes=("3A", "3B", "3B-leaky"),
            write_model=write_model,
            base={"model": "owner/base", "model_sha": COMMIT, "files": {}},
            scoring={"task_files": {"a.yaml": sha256_text(TASK)}},
        )
    return root


@pytest.fixture
def study(tmp_path, monkeypatch, template):
    """The root of a copy of the study, the working directory."""
    root = tmp_path / "here"
    shutil.copytree(template, root, ignore=shutil.ignore_patterns("deposits"))
    monkeypatch.chdir(root)
    return root
