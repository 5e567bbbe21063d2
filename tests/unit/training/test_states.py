"""Promises of resumable checkpoints: an incomplete one is never used, and only two are kept."""

import errno
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest

from ablation.training.checkpoints import (
    CheckpointsInUse,
    claimed,
    complete_checkpoints,
    newest_checkpoint,
    resumed_steps,
    seal,
)


def save(home, step, whole=True):
    folder = home / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    if whole:
        seal(folder)
    return folder


def test_no_folder_is_no_state(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_the_newest_whole_state_is_taken_and_half_written_ones_go(tmp_path):
    save(tmp_path, 100)
    kept = save(tmp_path, 900)
    half = save(tmp_path, 1000, whole=False)
    assert newest_checkpoint(tmp_path) == kept and not half.exists()


def test_steps_are_numbers_not_text(tmp_path):
    save(tmp_path, 900)
    assert newest_checkpoint(tmp_path) != save(tmp_path, 1000)
    assert newest_checkpoint(tmp_path).name == "checkpoint-1000"


def test_only_the_newest_two_stay(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    assert [s.name for s in complete_checkpoints(tmp_path)] == ["checkpoint-30", "checkpoint-40"]
    assert len(list(tmp_path.iterdir())) == 2


def synced(monkeypatch, home, fault=lambda path: None):
    """A list of every path below `home` that is synced from now on, and whether its marker stood.

    `fault` may raise for a path.
    """
    done, real = [], os.fsync

    def fsync(descriptor):
        number = os.fstat(descriptor).st_ino
        (path,) = (p for p in (home, *home.rglob("*")) if p.stat().st_ino == number)
        fault(path)
        done.append((path.relative_to(home).as_posix(), bool(list(home.glob("*/complete")))))
        real(descriptor)

    monkeypatch.setattr("ablation.training.checkpoints.os.fsync", fsync)
    return done


def test_a_marker_reaches_the_disk_after_every_file_and_name_it_vouches_for(tmp_path, monkeypatch):
    nested = tmp_path / "checkpoint-10/shards"
    nested.mkdir(parents=True)
    (nested / "1.bin").write_bytes(b"weights")
    done = synced(monkeypatch, tmp_path)
    save(tmp_path, 10)
    before = [path for path, marked in done if not marked]
    names = ["", "/model.safetensors", "/shards", "/shards/1.bin"]
    assert sorted(before) == [".", *(f"checkpoint-10{name}" for name in names)]
    after = [path for path, marked in done if marked]
    assert after == ["checkpoint-10/complete", "checkpoint-10"]


def test_a_marker_leaves_the_disk_before_anything_it_vouches_for(tmp_path, monkeypatch):
    for step in (10, 20):
        save(tmp_path, step)
    real, done = shutil.rmtree, synced(monkeypatch, tmp_path)

    def rmtree(path):
        assert done[-1][0] == path.name == "checkpoint-10" and not (path / "complete").exists()
        real(path)

    monkeypatch.setattr("ablation.training.checkpoints.shutil.rmtree", rmtree)
    save(tmp_path, 30)
    assert not (tmp_path / "checkpoint-10").exists()


@pytest.mark.parametrize(
    "number, folders, kept",
    [(errno.EINVAL, True, True), (errno.EINVAL, False, False), (errno.EIO, True, False)],
    ids=["no syncs of folders", "file not synced", "disk fails"],
)
def test_only_a_file_system_without_syncs_of_folders_is_excused(
    tmp_path, monkeypatch, number, folders, kept
):
    def fault(path):
        if path.is_dir() == folders:
            raise OSError(number, os.strerror(number))

    synced(monkeypatch, tmp_path, fault)
    with nullcontext() if kept else pytest.raises(OSError):
        save(tmp_path, 10)
    assert bool(complete_checkpoints(tmp_path)) == kept


def test_every_resume_is_remembered_until_the_training_is_over(tmp_path):
    home = tmp_path / "3B-1"
    with pytest.raises(ZeroDivisionError), claimed(home):
        assert resumed_steps(home) == [] and resumed_steps(home, at=10) == [10]
        raise ZeroDivisionError
    (home / "resumes").open("ab").write(b"\0\0\n")  # as a power loss may leave
    with claimed(home):
        assert resumed_steps(home, at=10) == [10, 10] and newest_checkpoint(home) is None
    assert resumed_steps(home) == []


def test_a_removal_cut_off_in_the_middle_leaves_no_state(tmp_path, monkeypatch):
    save(tmp_path, 10), save(tmp_path, 20)

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("ablation.training.checkpoints.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 30)
    monkeypatch.undo()
    assert [s.name for s in complete_checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-30"]
    assert newest_checkpoint(tmp_path).name == "checkpoint-30"
    assert not (tmp_path / "checkpoint-10").exists()


def test_a_claimed_state_goes_with_success_and_stays_with_failure_or_on_request(tmp_path):
    home = tmp_path / "3B-1"
    with pytest.raises(ZeroDivisionError), claimed(home):
        save(home, 10)
        raise ZeroDivisionError
    assert newest_checkpoint(home).name == "checkpoint-10"
    with claimed(home, keep=True):
        pass
    assert newest_checkpoint(home).name == "checkpoint-10"
    with claimed(home):
        pass
    assert not home.exists()


def test_a_removal_of_everything_cut_off_in_the_middle_leaves_no_state(tmp_path, monkeypatch):
    def killed(path, **kwargs):
        for file in path.glob("*.safetensors"):
            file.unlink()
        raise KeyboardInterrupt

    save(tmp_path, 10), save(tmp_path, 20)
    monkeypatch.setattr("ablation.training.checkpoints.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path):
        pass
    monkeypatch.undo()
    assert newest_checkpoint(tmp_path).name == "checkpoint-20"  # whole; the other is none any more
    assert (newest_checkpoint(tmp_path) / "model.safetensors").is_file()


OTHER = """
import sys
from ablation.training.checkpoints import CheckpointsInUse, claimed
try:
    with claimed(sys.argv[1]):
        print("got it")
except CheckpointsInUse as refused:
    print(refused)
"""


def test_one_process_at_a_time_trains_on_a_state(tmp_path):
    def another():
        command = [sys.executable, "-c", OTHER, str(tmp_path / "3B-1")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with claimed(tmp_path / "3B-1"):
        save(tmp_path / "3B-1", 10)
        assert "3B-1: another process trains with these checkpoints" in another()
        assert newest_checkpoint(tmp_path / "3B-1").name == "checkpoint-10"
    assert another() == "got it\n"


def test_a_claim_on_a_state_that_has_just_been_removed_is_refused(tmp_path, monkeypatch):
    import ablation.training.checkpoints as module

    real = module.fcntl.flock

    def removed_meanwhile(lock, how):
        (tmp_path / "lock").unlink()
        real(lock, how)

    monkeypatch.setattr(module.fcntl, "flock", removed_meanwhile)
    with pytest.raises(CheckpointsInUse), claimed(tmp_path):
        pass
