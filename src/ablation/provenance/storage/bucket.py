"""The files of a storage of Snakemake, read and written beside Snakemake's own transfers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ablation.provenance.atomic import atomic_path

# The storage as a folder or as a URL of fsspec, s3://bucket/prefix. Snakemake's process sets it.
STORAGE = "ABLATION_STORAGE"


class StorageError(RuntimeError):
    """The storage cannot be used; the message names it and what is needed."""


class Bucket:
    """The files below `uri`, a folder or a URL of fsspec. Raises StorageError without a driver."""

    def __init__(self, uri: str) -> None:
        import fsspec

        self.uri = uri
        try:
            self.fs, root = fsspec.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"{uri} cannot be opened: {error}. This job's environment needs the driver of that "
                'storage for fsspec; for S3: pip install ".[s3]" (docs/clouds.md)'
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
    return os.path.normpath(name) == name and not name.startswith(("/", ".."))
