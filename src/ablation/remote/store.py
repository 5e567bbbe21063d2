"""A store of files that are named by hashes, in a folder, on S3 or on the Hugging Face hub.

    objects/<first two digits>/<sha256>    the content of a file
    snapshots/<study>/<sha256>.json        the hash of each file of a study
    heads/<study>.json                     the snapshot that was pushed last

Objects and snapshots are named by the hash of their content, so nothing is overwritten with another
content. Two machines can push at once, an interrupted push continues where it ended, and damage is
detected.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from ablation.console.progress import Progress
from ablation.provenance.atomic import atomic_path
from ablation.provenance.files import canonical_json, sha256_file, sha256_text

EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol -> the optional dependencies that it needs
PARALLEL_TRANSFERS = 8
FILES_A_COMMIT = 200  # on the hub every upload is a commit


class StoreError(RuntimeError):
    """The store cannot be used, or an object is missing or damaged; the message names it."""


class Store:
    """The store at `uri`, which is a folder or any file system of fsspec.

    Raises StoreError for a URI that fsspec does not support.
    """

    def __init__(self, uri: str):
        import fsspec

        self.uri, protocol = uri, uri.partition("://")[0]
        try:
            self.fs, root = fsspec.url_to_fs(uri)
        except ImportError as error:
            extra = EXTRAS.get(protocol)
            advice = f'pip install --editable ".[{extra}]"' if extra else str(error)
            raise StoreError(f"{uri}: {protocol}:// needs another package: {advice}") from None
        except ValueError as error:
            raise StoreError(
                f"{uri}: {error}. A folder, s3://bucket/folder or hf://datasets/owner/name was "
                "expected"
            ) from None
        self.root = root.rstrip("/")
        self.local = "file" in _protocols(self.fs)
        self.hub = "hf" in _protocols(self.fs)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turns the errors of a service, which have many types, into StoreError."""
        try:
            yield
        except (OSError, StoreError):
            raise
        except Exception as error:
            raise StoreError(
                f"{self.uri} could not be used ({type(error).__name__}: {error}). Check the "
                "address, the network and the credentials in the environment (docs/provenance.md)"
            ) from error

    # ---- objects ---------------------------------------------------------------------------------

    def sizes(self) -> dict[str, int]:
        """{sha256: bytes} of every object in the store."""
        self.fs.invalidate_cache()
        try:
            with self._reached():
                found = self.fs.find(f"{self.root}/objects", detail=True)
        except FileNotFoundError:
            return {}
        return {path.rpartition("/")[2]: entry["size"] for path, entry in found.items()}

    def send(self, files: Mapping[str, Path], label: str) -> None:
        """Store {sha256: file}. Raises StoreError if a file no longer has its hash."""
        self._put([(object_path(sha256), path) for sha256, path in files.items()], label)
        for sha256, path in files.items():
            if not self.local and sha256_file(path) != sha256:
                raise StoreError(f"{path} changed while it was sent: push again")

    def fetch(self, files: Mapping[Path, str], label: str) -> None:
        """Fetch {target file: sha256}; a target is written only if its content has this hash.

        Raises StoreError with the name of the object and its target.
        """

        places: dict[str, list[Path]] = {}
        for path, sha256 in files.items():
            places.setdefault(sha256, []).append(path)

        def one(item: tuple[str, list[Path]]) -> None:
            sha256, (first, *others) = item
            with atomic_path(first) as scratch:
                self._get_object(sha256, scratch, str(first))
            for other in others:
                with atomic_path(other) as scratch:
                    shutil.copyfile(first, scratch)

        _side_by_side(one, list(places.items()), label)

    def read(self, sha256: str, wanted_as: str) -> bytes:
        """The content of one object. Raises StoreError if it is missing or damaged."""
        with TemporaryDirectory() as folder:
            content = Path(folder) / "content"
            self._get_object(sha256, content, wanted_as)
            return content.read_bytes()

    def holds(self, sha256: str) -> bool:
        """Whether the store has an undamaged object; its content, perhaps weights, is read."""
        with TemporaryDirectory() as folder:
            try:
                self._get_object(sha256, Path(folder) / "content", "checked")
            except StoreError:
                return False
        return True

    def _get_object(self, sha256: str, target: Path, wanted_as: str) -> None:
        self._get(object_path(sha256), target, wanted_as)
        if sha256_file(target) != sha256:
            raise self._damaged(object_path(sha256), wanted_as)

    # ---- snapshots -------------------------------------------------------------------------------

    def publish(self, snapshot: Mapping) -> str:
        """Store a snapshot and make it the head of its study; returns its hash."""
        study, text = snapshot["study"], canonical_json(snapshot)
        sha256 = sha256_text(text)
        head = {"study": study, "snapshot": sha256}
        with TemporaryDirectory() as folder:
            file, pointer = Path(folder) / "snapshot", Path(folder) / "head"
            file.write_text(text, "utf-8")
            pointer.write_text(canonical_json(head | {"sha256": _seal(head)}), "utf-8")
            # the head comes last, so that it never names a missing snapshot
            self._put([(_snapshot(study, sha256), file)])
            self._put([(_head(study), pointer)])
        return sha256

    def snapshot(self, study: str, sha256: str | None = None) -> dict:
        """The last snapshot of a study, or the one whose hash begins with `sha256`.

        Raises StoreError if it is missing or damaged.
        """
        self.fs.invalidate_cache()
        if sha256 is None:
            head = self._json(_head(study), f"the last push of {study}")
            if head.pop("sha256", None) != _seal(head) or head.get("study") != study:
                raise self._damaged(_head(study), "the last push")
            sha256 = str(head.get("snapshot"))
        elif len(sha256) < 64:
            sha256 = self._complete_hash(study, sha256)
        name = _snapshot(study, sha256)
        snapshot = self._json(name, f"a push of {study}")
        if sha256_text(canonical_json(snapshot)) != sha256:
            raise self._damaged(name, f"a push of {study}")
        return snapshot

    def studies(self) -> list[str]:
        """The names of all studies in the store."""
        with self._reached():
            return sorted(Path(path).stem for path in self.fs.find(f"{self.root}/heads"))

    def only_study(self) -> str:
        """The name of the only study in the store. Raises StoreError if there are others."""
        studies = self.studies()
        if len(studies) != 1:
            there = ", ".join(studies) or "none"
            raise StoreError(f"{self.uri} holds {len(studies)} studies ({there}): name one")
        return studies[0]

    def _complete_hash(self, study: str, start: str) -> str:
        try:
            with self._reached():
                found = self.fs.find(f"{self.root}/snapshots/{study}")
        except FileNotFoundError:
            found = []
        names = [Path(path).stem for path in found]
        fitting = [name for name in names if name.startswith(start)]
        if len(fitting) != 1:
            there = ", ".join(name[:12] for name in sorted(names)) or "none"
            raise StoreError(
                f"{self.uri} has not one push of {study} that begins with {start}; it has {there}"
            )
        return fitting[0]

    def _json(self, name: str, what: str) -> dict:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            self._get(name, file, what)
            try:
                content = json.loads(file.read_text("utf-8"))
                canonical_json(content).encode()  # half of a surrogate pair cannot be hashed
            except (ValueError, RecursionError):
                raise self._damaged(name, what) from None
        if not isinstance(content, dict):
            raise self._damaged(name, what)
        return content

    # ---- transfers -------------------------------------------------------------------------------

    def _put(self, files: Iterable[tuple[str, Path]], label: str = "") -> None:
        files = list(files)
        if self.hub:
            for start in range(0, len(files), FILES_A_COMMIT):
                with self._reached():
                    self._commit(files[start : start + FILES_A_COMMIT])
        else:
            _side_by_side(self._put_one, files, label)

    def _put_one(self, item: tuple[str, Path]) -> None:
        name, source = item
        target = f"{self.root}/{name}"
        if not self.local:  # a put to S3 is atomic
            with self._reached():
                self.fs.put_file(str(source), target)
            return
        scratch = Path(target).with_name(
            f".{uuid4().hex}.part"
        )  # another process may send the same file
        scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, scratch)
            if name.startswith("objects/") and sha256_file(scratch) != name.rpartition("/")[2]:
                raise StoreError(f"{source} changed while it was sent: push again")
            os.replace(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)

    def _commit(self, files: list[tuple[str, Path]]) -> None:
        from huggingface_hub import CommitOperationAdd, HfApi

        place = self.fs.resolve_path(self.root)
        inside = f"{place.path_in_repo}/".lstrip("/")
        HfApi().create_commit(
            place.repo_id,
            repo_type=place.repo_type,
            revision=place.revision,
            operations=[CommitOperationAdd(inside + name, str(path)) for name, path in files],
            commit_message=f"ablation push: {len(files)} files",
        )

    def _get(self, name: str, target: Path, what: str) -> None:
        try:
            with self._reached():
                self.fs.get_file(f"{self.root}/{name}", str(target))
        except FileNotFoundError:
            raise StoreError(f"{self.uri} has no {name} ({what})") from None

    def _damaged(self, name: str, what: str) -> StoreError:
        return StoreError(
            f"{self.uri}: {name} ({what}) is damaged: its content has another hash. Push "
            "again with --check from the machine that has the results"
        )


def _side_by_side(act: Callable, items: list, label: str) -> None:
    progress = Progress(label, len(items))
    with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
        try:
            for done, _ in enumerate(pool.map(act, items), 1):
                if label:
                    progress.update(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def object_path(sha256: str) -> str:
    """The name of the file in a store that holds the content with this hash."""
    return f"objects/{sha256[:2]}/{sha256}"


def _snapshot(study: str, sha256: str) -> str:
    return f"snapshots/{study}/{sha256}.json"


def _head(study: str) -> str:
    return f"heads/{study}.json"


def _seal(head: Mapping) -> str:
    return sha256_text(canonical_json(head))
