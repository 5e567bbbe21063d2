"""Promises of run records: times, machine, energy and commit of a job, and nothing invented."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ablation.provenance.manifests import StaleInput
from ablation.provenance.run_records import (
    ARCHIVED_COMMIT_FILE,
    ATTEMPT,
    GIT_STATE,
    energy_of,
    git_state,
    read_run_record,
    run_record,
    run_record_path,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def gpus(monkeypatch):
    """Three GPUs behind a driver; each reading of the energy is 7 J above the last one."""
    readings = {}

    def energy(device):
        readings[device] = readings.get(device, 1_000_000) + 7_000
        return readings[device]

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
    with run_record(folder / "run.json"):
        pass
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    "visible, seen", [(None, [0, 1, 2]), ("1", [1]), ("2,GPU-0", [2, 0]), ("", []), ("7", [])]
)
def test_energy_is_that_of_the_gpus_that_a_job_may_use(gpus, tmp_path, monkeypatch, visible, seen):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    run = record(tmp_path)
    assert [gpu["name"] for gpu in run.get("gpus", [])] == [f"kind {n}" for n in seen]
    assert run.get("energy_joules") == (7.0 * len(seen) if seen else None)
    assert run.get("driver") == ("580.1" if seen else None)


def test_a_gpu_without_an_energy_counter_is_still_named(gpus, tmp_path):
    def unsupported(device):
        raise OSError

    gpus.nvmlDeviceGetTotalEnergyConsumption = unsupported
    run = record(tmp_path)
    assert len(run["gpus"]) == 3 and "energy_joules" not in run


def test_without_a_driver_there_are_no_gpu_entries_and_no_output(tmp_path, capfd):
    """Unlike the other tests, this one uses the real package, so it needs no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        pytest.skip("there is a driver here")
    except pynvml.NVMLError:
        pass
    assert not {"gpus", "driver", "energy_joules"} & set(record(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_the_attempt_is_the_one_of_the_executor(tmp_path, monkeypatch):
    assert record(tmp_path)["attempt"] is None
    monkeypatch.setenv(ATTEMPT, "run-7")
    assert record(tmp_path)["attempt"] == "run-7"


def test_commit_and_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() == {"git_hash": None, "git_dirty": None}
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", *who, *arguments], check=True)
    (tmp_path / "results").write_text("not tracked")
    state = git_state()
    assert len(state["git_hash"]) == 40 and state["git_dirty"] is False
    (tmp_path / "file").write_text("two")
    changed = git_state()
    assert changed == state | {"git_dirty": True}

    monkeypatch.chdir(tmp_path.parent)  # a machine without the repository
    assert git_state()["git_hash"] is None
    monkeypatch.setenv(GIT_STATE, json.dumps(changed))
    assert git_state() == changed
    monkeypatch.chdir(tmp_path)  # a folder of the user's with a repository of its own
    assert git_state() == changed
    monkeypatch.delenv(GIT_STATE)
    subprocess.run(["git", "checkout", "--quiet", "file"], cwd=tmp_path, check=True)
    assert git_state(tmp_path) == state


def test_an_archive_of_git_contains_its_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir(), copy.mkdir()
    for name in (ARCHIVED_COMMIT_FILE, ".gitattributes"):
        shutil.copy(ROOT / name, home)
    shutil.copy(home / ARCHIVED_COMMIT_FILE, copy)
    assert git_state(copy)["git_hash"] is None  # copied without git, so the file has no commit
    git = ["git", "-C", str(home), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    archive = subprocess.run([*git, "archive", "HEAD"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "x", "-C", str(copy)], input=archive, check=True)
    commit = git_state(home)["git_hash"]
    assert git_state(copy) == {"git_hash": commit, "git_dirty": None}


def test_a_failed_job_leaves_no_record(tmp_path):
    with pytest.raises(RuntimeError), run_record(tmp_path / "run.json"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "manifest, run",
    [("a/manifest.json", "a/run.json"), ("a/recovery.manifest.json", "a/recovery.run.json")],
)
def test_the_run_record_is_beside_the_manifest(manifest, run):
    assert run_record_path(manifest).as_posix() == run


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        pytest.param("[" * 100_000, id="lists in lists"),
        '{"gpus": 5}',
        '{"gpus": [1]}',
        '{"gpus": [{"name": null}]}',
        '{"seconds": "x"}',
        '{"energy_joules": "x"}',
        '{"date": "today"}',
        '{"date": 1e300}',
        '{"seconds": NaN}',
        '{"gpus": [{"name": "x", "uuid": []}]}',
        '{"started": 5}',
        '{"attempt": [1]}',
        '{"git_hash": 5}',
        '{"host": {}}',
    ],
)
def test_a_run_record_of_another_form_is_refused_by_its_name(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StaleInput, match=f"{tmp_path}/run.json is no run record"):
        read_run_record(tmp_path / "run.json")


def test_a_run_record_is_read_back(tmp_path):
    with run_record(tmp_path / "run.json", tokens_per_second=2.5) as facts:
        facts["resumes"] = [5]
    assert read_run_record(tmp_path / "run.json")["resumes"] == [5]


def ran(start, seconds, joules, *cards):
    gpus = [{"name": "H100", "uuid": card} for card in cards]
    return {"date": start, "seconds": seconds, "energy_joules": joules, "gpus": gpus}


def test_the_energy_of_a_shared_card_counts_once():
    """Each record has the energy of the whole card, whatever else ran on it."""
    assert energy_of([]) is None and energy_of([{"seconds": 3.0}]) is None
    alone = [ran(0, 10, 4000, "a"), ran(10, 10, 3000, "a"), ran(5, 10, 1000, "b")]
    assert energy_of(alone) == 8000
    shared = [ran(0, 10, 4000, "a"), ran(0, 10, 4000, "a"), ran(5, 5, 2000, "a")]
    assert energy_of(shared) == 4000
    assert energy_of([ran(0, 10, 4000, "a"), ran(5, 10, 2000, "a")]) == 5 * 400 + 5 * 300 + 5 * 200
    assert energy_of([ran(0, 10, 0, "a"), ran(0, 10, 0, "a"), ran(20, 1, 7, "a")]) == 7
    assert energy_of([ran(0, 10, 6000, "a", "b"), ran(0, 10, 3000, "b")]) == 6000
    old = {"seconds": 1.0, "energy_joules": 5.0}  # records without times or cards are added up
    assert energy_of([old, old, ran(0, 10, 4000, "a")]) == 4010
