"""Replaces files and folders as a whole: they are written beside their path, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that is renamed to it when the block ends without an error.

    This works for files and for folders. The old file or folder stays until the new one is
    complete. Because a folder cannot be renamed onto another one, the old folder is renamed to
    `.<name>.old` for a moment. If the process is killed in that moment, the next call for the same
    `path` renames it back. Raises IsADirectoryError instead of replacing a folder by a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside = path.with_name(f".{path.name}.old")
    _clean_up(path, aside, scratch)
    try:
        yield scratch
        for file in scratch.rglob("*.safetensors"):  # safetensors lets only their owner read them
            file.chmod(scratch.stat().st_mode & 0o666)
        if path.is_dir():
            if not scratch.is_dir():
                raise IsADirectoryError(f"{path} is a folder, but a file would be written there")
            os.replace(path, aside)
        os.replace(scratch, path)
    finally:
        _clean_up(path, aside, scratch)


def _clean_up(path: Path, aside: Path, scratch: Path) -> None:
    """Remove temporary files, and restore the old folder if there is no new one."""
    _remove(scratch)
    if aside.is_dir() and path.exists():
        os.replace(aside, scratch)  # so that a kill while it is removed cannot restore a part of it
        _remove(scratch)
    elif aside.is_dir():
        os.replace(aside, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
