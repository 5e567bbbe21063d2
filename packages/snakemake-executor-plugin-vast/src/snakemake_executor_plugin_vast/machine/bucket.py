"""Runs on the machine: copies a state to a bucket and back, through fsspec.

`python bucket.py COMMAND` reads a JSON request from stdin: the `uri` of the state, and the
`environment` with the bucket's keys. A folder in the bucket is complete while it has its seal.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

SEAL = "complete"  # a file that is written last into a folder of a state, and removed first


def save(uri: str, request: dict[str, Any]) -> None:
    """Make the bucket equal to the folder `copy`. Complete parts are not sent again."""
    fs, root, there = opened(uri)
    here = {name: os.path.getsize(path) for name, path in files_below(request["copy"])}
    for part in {name.partition("/")[0] for name in (*here, *there)}:
        new, old = below(part, here), below(part, there)
        if f"{part}/{SEAL}" in old and new == old:
            continue
        remove(fs, root, [name for name in old if is_seal(name)])
        remove(fs, root, [name for name in old if name not in new and not is_seal(name)])
        for seals in (False, True):
            names = [name for name in new if is_seal(name) == seals]
            if names:
                ends = [f"{request['copy']}/{n}" for n in names], [f"{root}/{n}" for n in names]
                fs.put(*ends)


def load(uri: str, request: dict[str, Any]) -> None:
    """Copy the complete parts of the bucket into the folder `state`."""
    fs, root, there = opened(uri)
    for seals in (False, True):
        for name in there:
            part = name.partition("/")[0]
            if is_seal(name) == seals and (part == name or f"{part}/{SEAL}" in there):
                path = f"{request['state']}/{name}"
                os.makedirs(os.path.dirname(path), exist_ok=True)
                fs.get_file(f"{root}/{name}", path)


def drop(uri: str, request: dict[str, Any]) -> None:
    """Remove a state that is no longer needed, seals first."""
    fs, root, there = opened(uri)
    for seals in (True, False):
        remove(fs, root, [name for name in there if is_seal(name) == seals])


def opened(uri: str) -> tuple[Any, str, dict[str, int]]:
    """The file system, the root in it, and the size in bytes of each file below the root."""
    import fsspec  # type: ignore[import-untyped, unused-ignore]

    fs, root = fsspec.url_to_fs(uri)
    fs.auto_mkdir = True  # for a mounted folder; buckets have no folders
    root = root.rstrip("/")
    try:
        found = fs.find(root, detail=True)
    except FileNotFoundError:
        found = {}
    names = {path[len(root) + 1 :]: facts["size"] for path, facts in found.items()}
    return fs, root, {name: size for name, size in names.items() if is_inside(name)}


def remove(fs: Any, root: str, names: list[str]) -> None:
    if names:
        fs.rm([f"{root}/{name}" for name in names])


def is_inside(name: str) -> bool:
    """Whether a name in the bucket, which may be any text, is a plain path below a folder."""
    return os.path.normpath(name) == name and not name.startswith(("/", ".."))


def is_seal(name: str) -> bool:
    return name.count("/") == 1 and name.endswith(f"/{SEAL}")


def below(part: str, names: dict[str, int]) -> dict[str, int]:
    return {n: size for n, size in names.items() if n == part or n.startswith(f"{part}/")}


def files_below(folder: str) -> Iterator[tuple[str, str]]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            yield os.path.relpath(path, folder), path


if __name__ == "__main__":
    request = json.load(sys.stdin)
    os.environ.update(request["environment"])  # before fsspec reads it
    {"save": save, "load": load, "drop": drop}[sys.argv[1]](request["uri"], request)
