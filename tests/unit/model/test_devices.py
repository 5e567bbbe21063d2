"""Promises of the device of a job: NVIDIA's or AMD's GPU, that of a Mac, or the processor.

No Mac and no AMD card is here: what torch and the platform say of the hardware is replaced.
"""

import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ablation.config.load import load_study
from ablation.config.merging import ConfigError
from ablation.config.study import ComputeSettings
from ablation.model import checkpoints, output_head
from ablation.provenance.run_records import run_record
from ablation.training.finetune import finetune
from ablation.training.trainer_arguments import training_arguments
from ablation.workflow.load import gpus_here

ROOT = Path(__file__).resolve().parents[3]
MAC = {"gpu": 1, "device": "mps", "attention": "sdpa", "compile": False}


def hardware(**changes):
    base = {"gpu": 0, "threads": 1, "dtype": "float32", "attention": "sdpa", "compile": False}
    return ComputeSettings.model_validate(base | changes)


@pytest.mark.parametrize(
    "changes, device",
    [({}, "cpu"), ({"gpu": 2}, "cuda"), (MAC, "mps"), ({"device": "mps", "gpu": 0}, "cpu")],
)
def test_the_configuration_chooses_the_device(changes, device, monkeypatch):
    asked = hardware(**changes)
    assert asked.torch_device == device
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(checkpoints, "refuse_other_instructions", lambda h: None)
    monkeypatch.setattr(checkpoints, "load", lambda folder, dtype, attention, on, t: (on, None))
    assert checkpoints.load_on(asked, "model") == (device, None)


def test_fingerprints_without_a_device_are_those_of_before():
    study = load_study({}, ROOT / "config", (), False, False)
    assert "device" not in study.hardware.affecting_results()
    mac = study.hardware.model_copy(update=MAC)
    assert mac.affecting_results()["device"] == "mps"


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"gpu": 0}, "hardware.gpu"),
        ({"gpu": 2}, "hardware.gpu"),
        ({"attention": "flex_attention"}, "hardware.attention"),
        ({"compile": True}, "hardware.compile"),
        ({"device": "metal"}, "hardware.device"),
    ],
)
def test_what_a_mac_cannot_compute_is_refused(changes, key):
    with pytest.raises(ConfigError, match=key):
        load_study({"hardware": MAC | changes}, ROOT / "config", (), False, False)
    assert load_study({"hardware": MAC}, ROOT / "config", (), False, False).hardware.device == "mps"


@pytest.mark.parametrize(
    "system, machine, gpus",
    [("Darwin", "arm64", 1), ("Darwin", "x86_64", 0), ("Linux", "aarch64", 0)],
)
def test_only_macs_with_apple_silicon_have_that_gpu(system, machine, gpus, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert gpus_here("mps") == gpus


def test_a_training_on_a_missing_gpu_of_a_mac_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.mps, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(RuntimeError, match="0 GPUs are visible"):
        finetune(None, "data", None, 1, hardware(**MAC), "label", tmp_path)


@pytest.mark.parametrize("changes, pinned", [({}, False), (MAC, False), ({"gpu": 1}, True)])
def test_only_cuda_gets_pinned_memory(changes, pinned, tmp_path):
    recipe = load_study({}, ROOT / "config", (), False, False).finetune
    found = training_arguments(recipe, 1, hardware(**changes), tmp_path, 1)
    assert found.dataloader_pin_memory == found.accelerator_config.non_blocking == pinned
    assert found.use_cpu == (not changes)


def test_scores_are_said_to_be_of_a_mac():
    config = SimpleNamespace(_attn_implementation="sdpa")
    model = SimpleNamespace(
        device=torch.device("mps"),
        dtype=torch.float32,
        config=SimpleNamespace(get_text_config=lambda: config),
        modules=lambda: [],
    )
    found = checkpoints.circumstances(model)
    assert found["device"].startswith("MPS of ") and found["threads"] == 0


def test_sums_without_float64_have_nearly_the_same_values(monkeypatch):
    assert output_head.widest(torch.device("mps")) == torch.float32
    assert output_head.widest(torch.device("cpu")) == torch.float64
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(1))
    row, token = torch.arange(50), torch.arange(50)
    exact = logits.double().log_softmax(-1)[row, token]
    monkeypatch.setattr(output_head, "widest", lambda device: torch.float32)
    found, best = output_head.token_scores(logits.clone(), row, token)
    torch.testing.assert_close(found.double(), exact, atol=5e-6, rtol=0)
    assert torch.equal(best, logits.argmax(-1) == token)


@pytest.mark.parametrize("hip, listed", [("7.0", True), (None, False)])
def test_gpus_of_amd_are_in_run_records(hip, listed, tmp_path, monkeypatch):
    card = SimpleNamespace(name="AMD Instinct MI300X", total_memory=192 << 30)
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 1, get_device_properties=lambda n: card
    )
    fake = SimpleNamespace(version=SimpleNamespace(hip=hip), cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", fake)
    with run_record(tmp_path / "run.json"):
        pass
    text = (tmp_path / "run.json").read_text()
    assert ("MI300X" in text and "HIP 7.0" in text) == listed
