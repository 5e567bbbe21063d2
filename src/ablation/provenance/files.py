"""Canonical JSON, hashes of files, and files that are written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ablation.provenance.atomic import atomic_path

# The version of manifests, run records and fingerprints; 2 renamed a key of manifests.
SCHEMA_VERSION = 2


def display_path(file: str | Path) -> str:
    """The path as a user types it in the working directory; absolute for a path outside of it."""
    relative = os.path.relpath(file)
    return str(file) if relative.startswith("..") else relative


# ---- JSON and hashes ------------------------------------------------------------------------


def canonical_json(value: object) -> str:
    """`value` as compact JSON with sorted keys, so that equal values have equal texts."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sha256_bytes(content: bytes) -> str:
    """The SHA-256 of some bytes, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_text(text: str) -> str:
    """The SHA-256 of a text in UTF-8, as hexadecimal digits."""
    return sha256_bytes(text.encode())


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(value: object) -> str:
    """JSON with sorted keys, two spaces and a final newline; equal values, equal texts."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


# ---- writing --------------------------------------------------------------------------------


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file; what was there before stays until the new content is complete."""
    with atomic_path(path) as scratch:
        scratch.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: object) -> None:
    """Write the `json_text` of a value."""
    write_text(path, json_text(value))


def write_json_lines(path: str | Path, records: Iterable[Mapping]) -> None:
    """Write a file with each record as one line of canonical JSON."""
    write_text(path, "".join(canonical_json(record) + "\n" for record in records))


# ---- the files of a result ------------------------------------------------------------------


def visible_files(folder: str | Path) -> list[Path]:
    """All files below `folder`, sorted, without hidden files and files in hidden folders.

    Hidden files are metadata of other programs, such as .gitattributes or .snakemake_timestamp.
    """
    below = (p for p in Path(folder).rglob("*") if p.is_file())
    return sorted(p for p in below if not any(n[0] == "." for n in p.relative_to(folder).parts))


def file_table(paths: Iterable[str | Path]) -> dict[str, dict]:
    """{path: {sha256, bytes}} of files; a folder is replaced by the visible files below it."""
    table = {}
    for path in map(Path, paths):
        for file in visible_files(path) if path.is_dir() else [path]:
            table[file.as_posix()] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    return table
