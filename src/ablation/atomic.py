"""Files and folders that are whole or not there: written beside their place, renamed onto it."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path):
    """A temporary sibling of `path` that is renamed onto it when the block ends without error.

    Works for files and for folders; what stood at `path` stays until the new one is whole. No
    folder can be renamed onto another: the old one is set aside for a moment, as `.<name>.old`.
    After a kill in that moment it is put back by the next call for the same `path`. Raises
    IsADirectoryError rather than putting a file where a folder stands.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside = path.with_name(f".{path.name}.old")
    _settle(path, aside, scratch)
    try:
        yield scratch
        if path.is_dir():
            if not scratch.is_dir():
                raise IsADirectoryError(f"{path} is a folder, but a file would be written there")
            os.replace(path, aside)
        os.replace(scratch, path)
    finally:
        _settle(path, aside, scratch)


def _settle(path: Path, aside: Path, scratch: Path) -> None:
    """Put back what was set aside where nothing new came; remove what nobody needs any more."""
    _remove(scratch)
    if aside.is_dir() and path.exists():
        os.replace(aside, scratch)  # what is half removed must not be put back
        _remove(scratch)
    elif aside.is_dir():
        os.replace(aside, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
