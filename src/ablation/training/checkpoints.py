"""The checkpoints of a training: which are complete, which is the newest, which are deleted.

A checkpoint is a folder `checkpoint-<step>` that the Trainer writes, and from which a training can
be resumed. It counts as complete only if it holds a marker file. The marker is written last, after
everything else has reached the disk, and deleted first. So a save or a deletion that was cut off,
by a kill or by a power loss, never leaves a folder that counts as a complete checkpoint.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ablation.provenance.storage.states import LOCK, MARKER

RESUMES = "resumes"  # one step per line
# The last step of the last attempt, in a fixed number of bytes. It is in a folder without MARKER,
# because executors save the others as soon as they change, and this file changes with every step.
REACHED = "reached/step"
KEPT = 2  # newest checkpoints that are kept, in case the disk is full in the middle of a save


class CheckpointsInUse(RuntimeError):
    """Another process trains with this folder of checkpoints."""


@contextmanager
def claimed(home: str | Path, keep: bool = False) -> Iterator[None]:
    """Hold the folder of checkpoints `home` for this process alone.

    The folder is deleted after success, unless `keep`. The claim ends with the process, however the
    process ends. Raises CheckpointsInUse if another process holds the folder.
    """
    home = Path(home)
    home.mkdir(parents=True, exist_ok=True)
    with open(home / LOCK, "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = os.fstat(lock.fileno()).st_nlink == 0  # its holder has just deleted the folder
        except BlockingIOError:
            taken = True
        except OSError:  # a file system without locks: Snakemake's own lock has to suffice
            taken = False
        if taken:
            raise CheckpointsInUse(
                f"{home}: another process trains with these checkpoints. Wait until it has ended, "
                "or end it."
            )
        try:
            yield
        except BaseException as error:
            if saved := complete_checkpoints(home):
                step = _step(saved[-1])
                error.add_note(f"The training is kept up to step {step}, in {saved[-1]}.")
            else:
                error.add_note("No step of the training was saved yet (save_steps).")
            raise
        if not keep:
            for checkpoint in complete_checkpoints(home):
                _delete(checkpoint)
            shutil.rmtree(home, ignore_errors=True)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _delete(checkpoint: Path) -> None:
    (checkpoint / MARKER).unlink()
    _sync(checkpoint)
    shutil.rmtree(checkpoint)


def _sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems cannot sync folders
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def complete_checkpoints(home: str | Path) -> list[Path]:
    """The complete checkpoints in `home`, oldest first."""
    markers = Path(home).glob(f"checkpoint-*/{MARKER}")
    return sorted((marker.parent for marker in markers), key=_step)


def newest_checkpoint(home: str | Path) -> Path | None:
    """The checkpoint to resume from, or None. Deletes remains of cut-off saves and deletions."""
    complete = complete_checkpoints(home)
    for folder in Path(home).glob("checkpoint-*"):
        if folder not in complete:
            shutil.rmtree(folder)
    return complete[-1] if complete else None


def resumed_steps(home: str | Path, at: int | None = None) -> list[int]:
    """The steps at which the training in `home` was resumed, in all attempts.

    `at` is recorded first, as the step at which it is resumed now.
    """
    file = Path(home) / RESUMES
    if at is not None:
        with open(file, "a", encoding="ascii") as record:
            record.write(f"{at}\n")
    lines = file.read_bytes().splitlines() if file.is_file() else []
    return [int(line) for line in lines if line.isdigit()]  # a power loss may leave other bytes


def record_step(home: str | Path, step: int) -> None:
    """Record that the training in `home` has done `step`, whether or not a checkpoint has it."""
    file = Path(home) / REACHED
    file.parent.mkdir(exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o666)
    os.pwrite(descriptor, b"%20d" % step, 0)  # in place, so that a kill leaves a whole number
    os.close(descriptor)


def lost_steps(home: str | Path) -> int:
    """How many steps of the last attempt are in no complete checkpoint, so that they run again."""
    file, complete = Path(home) / REACHED, complete_checkpoints(home)
    reached = file.read_bytes().strip() if file.is_file() else b""
    saved = _step(complete[-1]) if complete else 0
    return max(0, int(reached) - saved) if reached.isdigit() else 0


def seal(checkpoint: Path) -> None:
    """Mark `checkpoint` as complete once its bytes are on the disk; delete all but the newest."""
    for path in (*checkpoint.rglob("*"), checkpoint, checkpoint.parent):
        _sync(path)
    (checkpoint / MARKER).touch()
    _sync(checkpoint / MARKER)
    _sync(checkpoint)
    for old in complete_checkpoints(checkpoint.parent)[:-KEPT]:
        _delete(old)
