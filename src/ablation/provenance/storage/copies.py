"""Lets a job use the same paths with a storage of Snakemake as without one.

With `--default-storage-provider`, Snakemake hands a job the paths of local copies, such as
`.snakemake/storage/s3/bucket/prefix/results/micro/base/manifest.json`. Manifests name each other by
paths such as `results/micro/base/manifest.json`. A job therefore works in a folder of its own with
paths of that form. In it are its inputs, and links to everything that is in no storage. The folder
is not shared, because Snakemake deletes copies that no rule declares as an input of a running job.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ablation.provenance.files import sha256_file
from ablation.provenance.manifests import WEIGHT_SUFFIXES, StaleInput, load_manifest
from ablation.provenance.storage.bucket import Bucket, Storage, is_inside

STORED = ("results", "logs")  # the folders whose files are in the storage
STATE = "state"  # checkpoints of unfinished trainings; executors find it in the folder of the run


@contextmanager
def working_in_copies(snakemake: Any) -> Iterator[None]:
    """If the job's files are in a storage, work in a folder with the paths of a run without one.

    The input and output paths in `snakemake`, the job, become relative to that folder, which
    becomes the working directory. After success, outputs are moved to where Snakemake expects them.
    """
    if (storage := Storage.of_run()) is None:
        yield
        return
    home, copies = Path.cwd(), Path(storage.copies)
    own = copies / f".job-{uuid4().hex}"

    def logical(file: str) -> str:
        full = Path(os.path.abspath(file))
        inside = full.is_relative_to(copies)
        return full.relative_to(copies).as_posix() if inside else str(file)

    for name in ("input", "output"):
        files = getattr(snakemake, name)
        setattr(snakemake, name, type(files)(toclone=files, custom_map=logical))
    snakemake.log[0] = os.path.abspath(snakemake.log[0])
    own.mkdir(parents=True)
    try:
        _link_rest(home, own)
        for file in snakemake.input:
            if is_stored(file):
                _copy(copies / file, own / file)
        for file in snakemake.output:
            (own / file).parent.mkdir(parents=True, exist_ok=True)
        os.chdir(own)
        yield
        for file in snakemake.output:
            _move(own / file, copies / file)
    finally:
        os.chdir(home)
        shutil.rmtree(own, ignore_errors=True)


def is_stored(name: str) -> bool:
    """Whether a path, which may be any text, is one of a file that the storage keeps."""
    return is_inside(name) and name.startswith(tuple(f"{folder}/" for folder in STORED))


def _link_rest(home: Path, own: Path) -> None:
    (home / STATE).mkdir(exist_ok=True)
    for there in home.iterdir():
        if there.name not in STORED and not there.name.startswith("."):
            (own / there.name).symlink_to(there)


def _copy(source: Path, target: Path) -> None:
    """Make a file or a folder appear at `target`, without copying its bytes where that is possible.

    A file that is already there is left: an input may be in a folder that is another input.
    """
    if source.is_dir():
        for file in source.rglob("*"):
            if file.is_file():
                _copy(file, target / file.relative_to(source))
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # a file system without links
            shutil.copy2(source, target)


def _move(source: Path, target: Path) -> None:
    if not source.exists():
        return  # Snakemake reports it
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)


def bring_outputs(
    manifests: Iterable[str], only: Iterable[str] | None = None, history: bool = False
) -> None:
    """Copy from the storage what `manifests` list, where no rule has declared it as an input.

    only: the names of files beside a manifest, listed or not, that are copied instead.
    history: also the manifests that they were made from, down to the data, with their outputs
        except weights.

    Does nothing without a storage. Files that the storage lacks are left to the verification.
    """
    if (storage := Storage.of_run()) is None:
        return
    bucket, pending, seen = storage.bucket(), list(manifests), set()
    while pending:
        path = pending.pop()
        if path in seen or not is_stored(path):
            continue
        seen.add(path)
        if not Path(path).is_file():
            _bring(bucket, path)
        try:
            manifest = load_manifest(path)
        except StaleInput:  # the verification of inputs reports it
            continue
        for name in manifest["outputs"] if only is None else only:
            if not (history and Path(name).suffix in WEIGHT_SUFFIXES):
                sha256 = manifest["outputs"].get(name, {}).get("sha256")
                _bring(bucket, os.path.normpath(Path(path).parent / name), sha256)
        if history:
            pending += manifest["inputs"]


def _bring(bucket: Bucket, name: str, sha256: str | None = None) -> None:
    """Copy a file, unless it is here with this hash, or is none of the storage's."""
    file = Path(name)
    if not is_stored(name):
        return
    if file.is_file() and (sha256 is None or sha256_file(file) == sha256):
        return
    with suppress(FileNotFoundError):
        bucket.get(name, file)
