"""Promises of `hardware.instructions`: jobs on a CPU are held to it, and others do not see it."""

import os
import platform
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from ablation.config.load import load_study
from ablation.model.checkpoints import circumstances, load_on, save
from ablation.model.checks.held import OtherInstructions
from ablation.provenance.run_records import processor_name
from ablation.vocabulary.instructions import INSTRUCTIONS, environment
from tests.dry_run import FORKS
from tests.support.small_training import HARDWARE
from tests.support.tiny import tiny_model, tiny_tokenizer

HELD = HARDWARE.model_copy(update={"instructions": "avx2"})


@pytest.fixture
def checkpoint(tmp_path):
    tokenizer = tiny_tokenizer()
    save(tiny_model("llama", vocabulary=len(tokenizer)), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_the_micro_study_is_held_and_a_gpu_job_is_not():
    assert load_study({}).hardware.affecting_results()["instructions"] == "avx2"
    real = load_study({"extends": "ministral3b.yaml"}, pinned=False).hardware
    assert real.gpu and "instructions" not in real.affecting_results()


def test_no_variable_is_set_where_it_has_no_meaning(monkeypatch):
    assert environment(None) == {}
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert environment("avx2") == {}


@pytest.mark.skipif(not environment("avx2"), reason="no x86-64 processor")
def test_a_process_with_other_instructions_loads_no_model_of_a_held_study(checkpoint, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    with pytest.raises(OtherInstructions, match="without .*MKL_CBWR=COMPATIBLE"):
        load_on(HELD, checkpoint)
    load_on(HARDWARE, checkpoint)
    for name, value in INSTRUCTIONS["avx2"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(OtherInstructions, match="torch computes with AVX512"):
        load_on(HELD, checkpoint)


@pytest.mark.skipif(not environment("avx2"), reason="no x86-64 processor")
def test_results_of_a_held_process_have_the_instructions_in_place_of_the_processor(monkeypatch):
    """Every processor then writes the same manifests, and their hashes into the same tables."""
    model = tiny_model("llama")
    for name, value in INSTRUCTIONS["avx2"].items():
        monkeypatch.setenv(name, value)
    assert circumstances(model)["device"] == "CPU held to avx2"
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    assert circumstances(model)["device"] == processor_name()


def _start(folder):
    os.chdir(folder)
    from ablation.workflow.load import start

    workflow = Mock(is_main_process=True, **{"storage_settings.default_storage_provider": None})
    start({"hardware": {"gpu": 0}}, f"{folder}/rules", [], workflow)
    assert INSTRUCTIONS["avx2"].items() <= os.environ.items()
    for name in INSTRUCTIONS["avx2"]:
        del os.environ[name]
    start({"hardware": {"instructions": None}}, f"{folder}/rules", [], workflow)
    assert not INSTRUCTIONS["avx2"].keys() & os.environ.keys()


@pytest.mark.skipif(not environment("avx2"), reason="no x86-64 processor")
def test_jobs_inherit_the_variables_of_their_study():
    root = Path(__file__).resolve().parents[3]
    run = FORKS.Process(target=_start, args=(root,))
    run.start()
    run.join()
    assert run.exitcode == 0
