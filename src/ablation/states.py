"""Resumable training states on disk: which are whole, which is the newest, which may go.

A state is a folder `checkpoint-<step>` as the Trainer writes it. It counts only once its marker
stands in it; the marker is written last, after everything else has reached the disk, and removed
first. So a save or a removal that was cut off at any moment is never taken for a state.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARKER = "complete"
LOCK = "lock"
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
    shutil.rmtree(state)


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


def seal(state: Path) -> None:
    """Say that `state` is whole, once its bytes are on the disk; remove all but the newest."""
    for file in state.rglob("*"):
        if file.is_file():
            with open(file, "rb") as content:
                os.fsync(content.fileno())
    with open(state / MARKER, "w") as marker:
        os.fsync(marker.fileno())
    for old in complete_states(state.parent)[:-KEPT]:
        _remove(old)
