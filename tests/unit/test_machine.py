"""Promises of the run record: what happened, where, at what energy; nothing made up."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ablation import machine


@pytest.fixture
def gpus(monkeypatch):
    """Three GPUs behind a driver; each look at the energy finds 7 J more used on each board."""
    looks = {}

    def energy(device):
        looks[device] = looks.get(device, 1_000_000) + 7_000
        return looks[device]

    driver = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda device: f"GPU-{device}abc",
        nvmlDeviceGetName=lambda device: f"kind {device}",
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(total=80),
        nvmlDeviceGetTotalEnergyConsumption=energy,
        nvmlSystemGetDriverVersion=lambda: "580.1",
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return driver


def record(folder):
    with machine.run_record(folder / "run.json"):
        pass
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    "visible, seen", [(None, [0, 1, 2]), ("1", [1]), ("2,GPU-0", [2, 0]), ("", []), ("7", [])]
)
def test_energy_is_that_of_the_gpus_a_job_may_use(gpus, tmp_path, monkeypatch, visible, seen):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    run = record(tmp_path)
    assert [gpu["name"] for gpu in run.get("gpus", [])] == [f"kind {n}" for n in seen]
    assert run.get("energy_joules") == (7.0 * len(seen) if seen else None)
    assert run.get("driver") == ("580.1" if seen else None)


def test_a_gpu_that_cannot_say_its_energy_is_still_named(gpus, tmp_path):
    def unsupported(device):
        raise OSError

    gpus.nvmlDeviceGetTotalEnergyConsumption = unsupported
    run = record(tmp_path)
    assert len(run["gpus"]) == 3 and "energy_joules" not in run


def test_without_driver_or_package_there_is_nothing_about_gpus(gpus, tmp_path, monkeypatch):
    def no_driver():
        raise OSError

    gpus.nvmlInit = no_driver
    assert not {"gpus", "driver", "energy_joules"} & set(record(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it fails
    assert not {"gpus", "driver", "energy_joules"} & set(record(tmp_path))


def test_the_attempt_is_the_executors(tmp_path, monkeypatch):
    assert record(tmp_path)["attempt"] is None
    monkeypatch.setenv(machine.ATTEMPT, "run-7")
    assert record(tmp_path)["attempt"] == "run-7"


def test_commit_and_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.git_state() == {"git_hash": None, "git_dirty": None}
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", *who, *arguments], check=True)
    (tmp_path / "results").write_text("not tracked")
    state = machine.git_state()
    assert len(state["git_hash"]) == 40 and state["git_dirty"] is False
    (tmp_path / "file").write_text("two")
    assert machine.git_state() == state | {"git_dirty": True}


def test_a_failed_job_leaves_no_record(tmp_path):
    with pytest.raises(RuntimeError), machine.run_record(tmp_path / "run.json"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "manifest, run",
    [("a/manifest.json", "a/run.json"), ("a/recovery.manifest.json", "a/recovery.run.json")],
)
def test_the_record_stands_beside_the_manifest(manifest, run):
    assert machine.run_of(manifest).as_posix() == run
