"""Data sets in files on this machine: which files they are, and their hashes.

A commit pins a data set of the hub; the hashes of its files pin a local one, and are part of the
fingerprint of everything that depends on it. Where the files lie is not part of it. Snakemake
imports this module when it parses the rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ablation.data.benchmarks import DATA_SUFFIXES, split_files, training_files
from ablation.provenance.files import sha256_file, visible_files

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # `../name` is a path
Files = dict[str, Path]  # {name below the folder that was given: the file}


class ChangedFile(RuntimeError):
    """A file is no longer as it was when the study was loaded."""


def is_local(data: str, pins: Container[str]) -> bool:
    """Whether `data` is a path here, and not a data set of the hub: `pins` names those.

    A name of two words, `owner/name`, is of the hub; `./owner/name` or `owner/name.jsonl` is here.
    """
    named = HUB_NAME.fullmatch(data) and Path(data).suffix not in DATA_SUFFIXES
    return data not in pins and not named


def home_of(data: str | Path) -> Path:
    """The folder below which the files of `data`, a file or a folder, are named."""
    return Path(data) if Path(data).is_dir() else Path(data).parent


def training_split(data: str | Path) -> Files:
    """The file `data`, or the files of the training split of the folder `data`.

    Raises ValueError, which lists what was found, if there are none.
    """
    path = Path(data)
    if not path.is_dir():
        if path.suffix not in DATA_SUFFIXES:
            raise ValueError(f"a {', '.join(DATA_SUFFIXES)} file was expected, {path.name} found")
        return {path.name: path}
    names = [file.relative_to(path).as_posix() for file in visible_files(path)]
    return {name: path / name for name in training_files(names)}


def splits(folder: str | Path, wanted: Mapping[str, Iterable[Sequence[str]]]) -> Files:
    """The files below `folder` of all `wanted` {data set: its (configuration, split) pairs}."""
    found: Files = {}
    for data, parts in wanted.items():
        for configuration, split in parts:
            found |= split_of(folder, data, configuration, split)
    return found


def split_of(folder: str | Path, data: str, configuration: str, split: str) -> Files:
    """The files of one split, in the layout of the hub: `<data>/<configuration>/<split>-...`."""
    home = Path(folder) / data
    names = [file.relative_to(home).as_posix() for file in visible_files(home)]
    return {f"{data}/{n}": home / n for n in split_files(names, configuration, split)}


def hashes(files: Files, manifest: str | Path) -> dict[str, str]:
    """{name: SHA-256} of `files`, as fingerprints hold them.

    If they are not here, the `manifest` of the stage that has copied them says what they were: a
    rented machine, or a clone with results, has only the copies.
    """
    if not files and Path(manifest).is_file():
        made = json.loads(Path(manifest).read_text("utf-8"))["fingerprint"]["config"]
        return dict(made.get("files", {}))
    return {name: sha256_file(file) for name, file in sorted(files.items())}


def unchanged(home: str | Path, expected: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """(name, file) of each file below `home`, whose hash must be the `expected` one of its name.

    Raises ChangedFile, which names the file.
    """
    for name, sha256 in expected.items():
        file = Path(home) / name
        if not file.is_file() or sha256_file(file) != sha256:
            raise ChangedFile(
                f"{file} is missing, or has changed since the study was loaded. Run the same "
                "command again: it makes what depends on the file anew"
            )
        yield name, file
