"""Reads the snapshot of a study from a store, and accepts only what a push of the study writes.

Whoever can write to the store can write a snapshot, so all its paths are checked before any use.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ValidationError

from ablation.provenance.manifests import FileEntry
from ablation.remote.store import Store, StoreError

SCHEMA_VERSION = 1
COMMON_TABLE = "results/recovery.csv"  # a copy of the recovery table of the last study

CHOOSE_ANOTHER = (
    "Nothing was written. Push again from the machine that has the results, or choose another push "
    "by --snapshot"
)


class _Snapshot(BaseModel):
    files: dict[str, FileEntry]
    left_out: dict[str, FileEntry]
    notes: FileEntry


def read_snapshot(store: Store, study: str, sha256: str | None = None) -> dict[str, Any]:
    """The last snapshot of a study, or the one whose hash begins with `sha256`.

    `files` and `left_out` name only visible files below results/<study>, and COMMON_TABLE if it is
    a copy of the study's table. Raises StoreError for anything else, and as `Store.snapshot` does.
    """
    found = store.snapshot(study, sha256)
    if found.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(f"{store.uri}: snapshot of another version of this program")
    try:
        _Snapshot.model_validate(found)
    except ValidationError as error:
        place = ".".join(repr(part)[1:-1] for part in error.errors()[0]["loc"])
        raise StoreError(
            f"{store.uri}: {place} is wrong, so this is no snapshot of a push. {CHOOSE_ANOTHER}"
        ) from None
    files = found["files"]
    copied = files.get(COMMON_TABLE) == files.get(f"results/{study}/recovery.csv")
    for path in (*files, *found["left_out"]):
        if not (_is_inside(path, study) or (path == COMMON_TABLE and copied)):
            raise StoreError(
                f"{store.uri}: the snapshot names {path!r}, which is outside results/{study}/. "
                f"{CHOOSE_ANOTHER}"
            )
    return found


def _is_inside(path: str, study: str) -> bool:
    """Whether `path` is the plain path of a visible file below the folder of the study."""
    parts = PurePosixPath(path).parts
    visible = not any(part.startswith(".") for part in parts)
    plain = path == "/".join(parts) and path.isprintable()
    return plain and visible and len(parts) > 2 and parts[:2] == ("results", study)


def refuse_links(paths: Iterable[str], study: str) -> None:
    """Raise StoreError if writing one of the paths would follow a link out of results/<study>.

    `results` and `results/<study>` themselves can be links, for example to a larger disk.
    """
    home = Path("results", study).resolve()
    for path in paths:
        folder = Path(path).parent.resolve()
        if path != COMMON_TABLE and not folder.is_relative_to(home):
            raise StoreError(
                f"{path} is behind a link to {folder}, which is outside results/{study}/. Nothing "
                "was written. Replace the link by a folder, then pull again"
            )
