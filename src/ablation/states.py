"""Resumable training states on disk: which are whole, which is the newest, which may go.

A state is a folder `checkpoint-<step>` as the Trainer writes it. It counts only once its marker
stands in it; the marker is written last, after everything else has reached the disk, and removed
first, before anything else goes. So a save or a removal that was cut off at any moment, by a kill
or by a power loss, is never taken for a state.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARKER = "complete"
LOCK = "lock"
RESUMES = "resumes"  # a step a line
KEPT = 2  # the newest states; one would do, were disks never full in the middle of a save


class StateInUse(RuntimeError):
    """Another process trains on this state."""


@contextmanager
def claimed(home: str | Path, keep: bool = False) -> Iterator[None]:
    """Hold `home` for this process alone; remove it after success, unless `keep`.

    The claim ends with the process, however that ends. Raises StateInUse when another process
    holds it.
    """
    home = Path(home)
    home.mkdir(parents=True, exist_ok=True)
    with open(home / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = os.fstat(lock.fileno()).st_nlink == 0  # the holder has just removed its state
        except BlockingIOError:
            taken = True
        except OSError:  # a file system without locks: Snakemake's own lock must do
            taken = False
        if taken:
            raise StateInUse(
                f"{home}: another process trains on this state. Wait until it has ended, or end it."
            )
        yield
        if not keep:
            for state in complete_states(home):
                _remove(state)
            shutil.rmtree(home, ignore_errors=True)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _remove(state: Path) -> None:
    (state / MARKER).unlink()
    _sync(state)
    shutil.rmtree(state)


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as fault:  # a file system that cannot sync folders
        if not (path.is_dir() and fault.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def complete_states(home: str | Path) -> list[Path]:
    """The whole states in `home`, oldest first."""
    found = Path(home).glob(f"checkpoint-*/{MARKER}")
    return sorted((marker.parent for marker in found), key=_step)


def newest_state(home: str | Path) -> Path | None:
    """The state to resume from, or None. Removes what a cut-off save or removal has left."""
    whole = complete_states(home)
    for folder in Path(home).glob("checkpoint-*"):
        if folder not in whole:
            shutil.rmtree(folder)
    return whole[-1] if whole else None


def resumes(home: str | Path, at: int | None = None) -> list[int]:
    """The steps at which the training in `home` was resumed, every attempt counted; adds `at`."""
    file = Path(home) / RESUMES
    if at is not None:
        with open(file, "a") as lines:
            lines.write(f"{at}\n")
    lines = file.read_text().splitlines() if file.is_file() else []
    return [int(line) for line in lines if line.isdigit()]  # a power loss may leave other bytes


def seal(state: Path) -> None:
    """Say that `state` is whole, once its bytes are on the disk; remove all but the newest."""
    for path in (*state.rglob("*"), state, state.parent):
        _sync(path)
    (state / MARKER).touch()
    _sync(state / MARKER)
    _sync(state)
    for old in complete_states(state.parent)[:-KEPT]:
        _remove(old)
