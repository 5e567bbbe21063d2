"""Reading and writing of files: hashes, visible files of a folder, replacement as a whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .hooks import File


def hashed(path: str) -> File:
    """`path` with the SHA-256 and the size of what it holds now."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return File(path, sha256, os.path.getsize(path))


def visible_files(folder: str) -> list[str]:
    """Every file below `folder`, sorted; hidden files and folders are left out."""
    found: list[str] = []
    for home, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [os.path.join(home, name) for name in files if name[0] != "."]
    return sorted(found)


def is_below(path: str, folder: str) -> bool:
    """`path` is inside `folder`; both are normalized and relative to the same place."""
    if folder == ".":
        return not os.path.isabs(path) and path.split(os.sep)[0] != ".." and "://" not in path
    return path.startswith(folder + os.sep)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON; `path` holds the old text or the new one, never a part."""
    scratch = path.with_name(f".{path.name}.part")
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of `path` when the block ends without error."""
    scratch = path.with_name(f".{path.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        if path.exists():
            shutil.rmtree(path)
        os.replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
