"""The files of a storage of Snakemake, read and written beside Snakemake's own transfers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ablation.provenance.atomic import atomic_path

# Environment variable with the storage of this run as JSON. Snakemake's process sets it for jobs.
STORAGE = "ABLATION_STORAGE"


class StorageError(RuntimeError):
    """The storage cannot be used; the message names it and what is needed."""


@dataclass(frozen=True)
class Storage:
    """Where a run keeps its results.

    uri: a folder, or a URL of fsspec such as s3://bucket/prefix.
    copies: the folder of Snakemake's local copies, an absolute path.
    options: arguments for fsspec's driver, with the keys of the storage.
    """

    uri: str
    copies: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of_run(cls) -> Storage | None:
        """The storage of this run, as Snakemake's process has described it; None without one."""
        text = os.environ.get(STORAGE)
        return cls(**json.loads(text)) if text else None

    def describe(self) -> None:
        """Describe the storage to this process and those that it starts."""
        os.environ[STORAGE] = json.dumps(asdict(self))

    def bucket(self, folder: str = "") -> Bucket:
        """The files below `folder`. Raises StorageError without a driver."""
        return Bucket(f"{self.uri}/{folder}".rstrip("/"), self.options)


class Bucket:
    """The files below `uri`, a folder or a URL of fsspec. Raises StorageError without a driver."""

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:
        import fsspec

        self.uri = uri
        try:
            self.fs, root = fsspec.url_to_fs(uri, **options)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"{uri} cannot be opened ({error}).\nJobs need fsspec's driver of that storage; "
                'for S3: pip install ".[s3]" (docs/clouds.md)'
            ) from None
        self.fs.auto_mkdir = True  # in a folder; buckets have no folders
        self.root = root.rstrip("/")

    def names(self) -> set[str]:
        """The names of all files, relative to `uri`. Those that lead elsewhere are left out."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self.root)
        except FileNotFoundError:
            return set()
        names = {path[len(self.root) + 1 :] for path in found}
        return {n for n in names if is_inside(n)}

    def get(self, name: str, target: Path) -> None:
        """Copy a file here, as a whole. Raises FileNotFoundError if there is none."""
        with atomic_path(target) as scratch:
            self.fs.get_file(f"{self.root}/{name}", str(scratch))

    def put(self, source: Path, name: str) -> None:
        """Copy a file there. Raises FileNotFoundError if `source` is gone."""
        self.fs.put_file(str(source), f"{self.root}/{name}")

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone are no error."""
        for name in names:
            try:
                self.fs.rm_file(f"{self.root}/{name}")
            except FileNotFoundError:
                continue


def is_inside(name: str) -> bool:
    """Whether a name from a storage, which may be any text, is a plain path below a folder."""
    return os.path.normpath(name) == name != "." and not name.startswith(("/", ".."))
