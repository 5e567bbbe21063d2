"""Data sets in files on this machine: which files they are, and their hashes.

A commit pins a data set of the hub; the hashes of its files pin a local one, and are part of the
fingerprint of everything that depends on it. Where the files lie is not part of it. Snakemake
imports this module when it parses the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ablation.data.benchmarks import DATA_SUFFIXES, split_files, training_files
from ablation.provenance.files import sha256_file, visible_files

Files = dict[str, Path]  # {name below the folder that was given: the file}


class ChangedFile(RuntimeError):
    """A file is no longer as it was when the study was loaded."""


def is_local(data: str, pins: Mapping) -> bool:
    """Whether `data` is a file or folder here; `pins` names data sets of the hub."""
    return data not in pins and Path(data).exists()


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
    return dict(sorted(found.items()))


def split_of(folder: str | Path, data: str, configuration: str, split: str) -> Files:
    """The files of one split, in the layout of the hub: `<data>/<configuration>/<split>-...`."""
    home = Path(folder) / data
    names = [file.relative_to(home).as_posix() for file in visible_files(home)]
    return {f"{data}/{n}": home / n for n in split_files(names, configuration, split)}


def hashes(files: Files) -> dict[str, str]:
    """{name: SHA-256} of `files`, as fingerprints hold them."""
    return {name: sha256_file(file) for name, file in files.items()}


def unchanged(
    expected: Mapping[str, str], files: Iterable[str | Path]
) -> Iterator[tuple[str, Path]]:
    """(name, file) of each file, whose hash must be the `expected` one of its name.

    `files` are in the order of the sorted names. Raises ChangedFile, which names the file.
    """
    for (name, sha256), file in zip(sorted(expected.items()), files, strict=True):
        if sha256_file(file) != sha256:
            raise ChangedFile(
                f"{file} has changed since the study was loaded. Run the same command again: it "
                "makes what depends on the file anew"
            )
        yield name, Path(file)
