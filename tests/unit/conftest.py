"""Fixtures of more than one test file."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("busy machines", deadline=None)  # how long an example takes is no promise
settings.load_profile("busy machines")

CONFIG = Path(__file__).resolve().parents[2] / "config"


@pytest.fixture(params=["eager", "sdpa", "flex_attention"])
def attention(request):
    """Each back end. Flex runs uncompiled here: the same masks, without a minute of compiling."""
    import torch

    flex = request.param == "flex_attention"
    with torch.compiler.set_stance("force_eager") if flex else nullcontext():
        yield request.param


@pytest.fixture
def configs(tmp_path):
    """A config folder of its own, with the default study and its tasks."""
    shutil.copy(CONFIG / "default.yaml", tmp_path)
    shutil.copytree(CONFIG / "tasks", tmp_path / "tasks")
    return tmp_path


@pytest.fixture
def one_thread():
    """Tiny models are no faster on more, and their sums would come in another order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer():
    from tests.support.tiny import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture
def data(tmp_path):
    """A file of finetuning records."""
    from tests.support.small_training import write_records

    write_records(tmp_path / "data.jsonl")
    return tmp_path / "data.jsonl"
