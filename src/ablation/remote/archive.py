"""A push in one file, to be published with a paper or in a repository: FILE.zip in place of a URI.

The file is a zip of a store (`ablation.remote.store`) that holds one push. Its sample rows are
stored column by column (`ablation.remote.sample_columns`; `columns.json` has the hashes of their
parts), so that what the conditions share is there once. Equal pushes give equal bytes. An archive
comes from anywhere, so nothing of it is used before its names, sizes and hashes were checked.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile, ZipInfo

import pyarrow
from pydantic import BaseModel, ConfigDict

from ablation.console.progress import Progress
from ablation.provenance.atomic import atomic_path
from ablation.provenance.files import sha256_bytes, write_bytes, write_json
from ablation.remote.sample_columns import put_together, take_apart
from ablation.remote.store import Store, StoreError, object_path

COLUMNS = "columns.json"
SAMPLE_ROWS = "samples.parquet"
HASH = "[0-9a-f]{64}"
STUDY = r"[A-Za-z0-9][\w.-]*"
MEMBER = re.compile(
    rf"objects/([0-9a-f]{{2}})/\1[0-9a-f]{{62}}|snapshots/{STUDY}/{HASH}\.json"
    rf"|heads/{STUDY}\.json|{re.escape(COLUMNS)}",
    re.ASCII,
)
THE_SAME_MOMENT = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)  # what ZipFile raises


class _Columns(BaseModel):
    """Of which parts the sample rows are made, {hash: hashes of its schema and columns}."""

    model_config = ConfigDict(strict=True)
    pyarrow: str
    files: dict[str, list[str]]


def is_archive(uri: str) -> bool:
    """Whether a URI names an archive rather than a store."""
    return uri.endswith(".zip") and "://" not in uri


@contextmanager
def open_store(uri: str) -> Iterator[Store]:
    """The store at a URI; that of an archive lies in a temporary folder. Raises StoreError."""
    if not is_archive(uri):
        yield Store(uri)
        return
    with TemporaryDirectory(prefix="ablation-") as folder:
        _unpack(Path(uri), Path(folder))
        store = Store(folder)
        store.uri = uri  # which messages name
        yield store


@contextmanager
def store_to_write(uri: str) -> Iterator[Store]:
    """As `open_store`; an archive is written, or replaced, when the block ends without an error."""
    if not is_archive(uri):
        yield Store(uri)
        return
    with TemporaryDirectory(prefix="ablation-") as folder:
        store = Store(folder)
        store.uri = uri
        yield store
        _pack(Path(folder), Path(uri))


# ---- writing --------------------------------------------------------------------------------


def _pack(folder: Path, archive: Path) -> None:
    """Replace the sample rows in a store by their columns, and write the store into a zip."""
    taken_apart: dict[str, list[str]] = {}
    rows = sorted(_sample_rows(folder))
    progress = Progress(f"pack {archive.name}", len(rows))
    for done, sha256 in enumerate(rows, 1):
        file = folder / object_path(sha256)
        if parts := take_apart(file.read_bytes()):
            file.unlink()
            taken_apart[sha256] = [sha256_bytes(part) for part in parts]
            for name, part in zip(taken_apart[sha256], parts, strict=True):
                write_bytes(folder / object_path(name), part)
        progress.update(done)
    write_json(folder / COLUMNS, {"pyarrow": pyarrow.__version__, "files": taken_apart})
    with atomic_path(archive) as scratch, ZipFile(scratch, "w") as target:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = ZipInfo(file.relative_to(folder).as_posix(), THE_SAME_MOMENT)
            info.external_attr = 0o644 << 16
            target.writestr(info, file.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def _sample_rows(folder: Path) -> set[str]:
    """The hashes of all files of sample rows in the snapshots of a store."""
    snapshots = (json.loads(path.read_text("utf-8")) for path in folder.glob("snapshots/*/*.json"))
    return {
        entry["sha256"]
        for snapshot in snapshots
        for path, entry in snapshot["files"].items()
        if path.endswith(f"/{SAMPLE_ROWS}")
    }


# ---- reading --------------------------------------------------------------------------------


def _unpack(archive: Path, folder: Path) -> None:
    """Write the store in an archive into an empty folder. Raises StoreError."""
    if not archive.is_file():
        raise StoreError(f"{archive} is not there; an archive of `ablation push` was expected")
    try:
        with ZipFile(archive) as source:
            _refuse_members(source.infolist(), shutil.disk_usage(folder).free)
            for info in source.infolist():
                file = folder / info.filename
                file.parent.mkdir(parents=True, exist_ok=True)
                with source.open(info) as content, open(file, "xb") as copy:
                    shutil.copyfileobj(content, copy)
        columns = _Columns.model_validate_json((folder / COLUMNS).read_bytes())
        for sha256, parts in columns.files.items():
            _restore(folder, sha256, parts, columns.pyarrow)
    except (*DAMAGED, ValueError) as error:
        raise StoreError(
            f"{archive} is damaged, or no archive of `ablation push`: {error}. Nothing was written"
        ) from None


def _refuse_members(members: Collection[ZipInfo], free: int) -> None:
    """Raise ValueError unless all files are those of a store, and fit twice into `free` bytes."""
    names: set[str] = set()
    for info in members:
        if not MEMBER.fullmatch(info.filename) or info.filename in names:
            raise ValueError(f"it holds {info.filename!r}, which no push writes")
        names.add(info.filename)
    if COLUMNS not in names:
        raise ValueError(f"it has no {COLUMNS}")
    if (size := sum(info.file_size for info in members)) > free / 2:
        raise ValueError(f"its files have {size} bytes, and {free} are free on this disk")


def _restore(folder: Path, sha256: str, parts: Sequence[str], version: str) -> None:
    """Write the sample rows with this hash from their columns. Raises ValueError."""
    for name in (sha256, *parts):
        if not re.fullmatch(HASH, name):
            raise ValueError(f"{COLUMNS} has {name!r}, where a hash was expected")
    if missing := [name for name in parts if not (folder / object_path(name)).is_file()]:
        raise ValueError(f"it lacks {object_path(missing[0])}, a column of sample rows")
    content = put_together([(folder / object_path(name)).read_bytes() for name in parts])
    if sha256_bytes(content) != sha256:
        here = pyarrow.__version__
        other = f" (written by pyarrow {version}, and this is {here})" if here != version else ""
        raise ValueError(f"the columns of the sample rows {sha256[:12]} give other bytes{other}")
    write_bytes(folder / object_path(sha256), content)
