"""Keeps the checkpoints of an unfinished training in a storage, so that a lost machine loses none.

A training writes its checkpoints to a folder of the machine that it runs on. Each one is complete
once it has its marker, and does not change any more. While the training runs, a thread copies
complete checkpoints to the storage, the marker last. The next attempt, on any machine, begins with
a copy of them. After success the training deletes its folder, and its copies are deleted too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ablation.provenance.storage.bucket import Bucket, Storage

MARKER = "complete"  # the file of a complete checkpoint (`ablation.training.checkpoints`)
LOCK = "lock"  # of the process of this machine that trains with the folder
SECONDS = 2.0  # between two looks at the folder


@contextmanager
def state_in_storage(folder: str | None) -> Iterator[None]:
    """While the block runs, keep copies of the training state in `folder` in the storage.

    Does nothing for a job without a state (None), and without a storage. A storage that cannot be
    read raises an error at the beginning; a copy that fails later is a line of the log, and is
    tried again.
    """
    storage = Storage.of_run()
    if not (folder and storage):
        yield
        return
    state = _State(Path(folder), storage.bucket(folder))
    state.load()
    ended = threading.Event()
    keeper = threading.Thread(target=state.keep, args=(ended,), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        state.save_or_say()


class _State:
    """A folder with checkpoints, and its copy in a storage."""

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        self.folder, self.bucket = folder, bucket
        self.saved: object = None  # what was in the folder at the last save

    def here(self) -> tuple[set[str], dict[str, int]]:
        """The complete checkpoints in the folder, and {other file: time of its change, ns}."""
        complete = {marker.parent.name for marker in self.folder.glob(f"*/{MARKER}")}
        plain: dict[str, int] = {}
        if self.folder.is_dir():
            files = [file for file in self.folder.iterdir() if file.name != LOCK]
            plain = {file.name: file.stat().st_mtime_ns for file in files if file.is_file()}
        return complete, plain

    def load(self) -> None:
        """Copy complete checkpoints that are not here, and other files that are missing."""
        there = self.bucket.names()
        complete, plain = self.here()
        for name in sorted(there, key=lambda name: (_is_marker(name), name)):
            part = name.partition("/")[0]
            missing = part not in (plain if part == name else complete)
            if missing and (part == name or f"{part}/{MARKER}" in there):
                self.bucket.get(name, self.folder / name)
        if new := {n.partition("/")[0] for n in there if _is_marker(n)} - complete:
            print(f"The training goes on from {max(new, key=_step)}, copied from {self.bucket.uri}")

    def keep(self, ended: threading.Event) -> None:
        """Save after every change, until `ended`."""
        while not ended.wait(SECONDS):
            self.save_or_say()

    def save_or_say(self) -> None:
        """Save; an error is printed, because it must not end a training."""
        try:
            self.save()
        except Exception as error:  # drivers raise errors of many types
            print(f"The state was not saved in {self.bucket.uri}: {type(error).__name__}: {error}")

    def save(self) -> None:
        """Make the storage equal to the folder: new checkpoints first, then old ones go."""
        complete, plain = self.here()
        ended = not self.folder.exists()  # a training deletes its folder after success
        if (now := (complete, plain, ended)) == self.saved:
            return
        there = self.bucket.names()
        for name in plain:
            self._put([name])
        for part in sorted(complete, key=_step):
            if f"{part}/{MARKER}" not in there:
                files = [file for file in (self.folder / part).rglob("*") if file.is_file()]
                names = [file.relative_to(self.folder).as_posix() for file in files]
                self._put(sorted(names, key=_is_marker))
        if complete or ended:
            gone = {n for n in there if n.partition("/")[0] not in (complete | set(plain))}
            self.bucket.remove(sorted(gone, key=lambda name: (not _is_marker(name), name)))
        self.saved = now

    def _put(self, names: list[str]) -> None:
        """Send files in this order; a checkpoint that the training deletes meanwhile is left."""
        for name in names:
            try:
                self.bucket.put(self.folder / name, name)
            except FileNotFoundError:
                if (self.folder / name).exists():  # then it is the storage that has failed
                    raise
                return


def _is_marker(name: str) -> bool:
    return name.count("/") == 1 and name.endswith(f"/{MARKER}")


def _step(part: str) -> tuple[int, str]:
    number = part.rpartition("-")[2]
    return (int(number) if number.isdigit() else -1, part)
