"""Reads repositories of the Hugging Face hub at pinned commits: their files and contents.

A commit never changes, so files in the hub's cache on this machine are used without a network.
Every file is verified by the hash that the hub lists for it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ablation.data.benchmarks import read_documents, split_files, training_files
from ablation.provenance.files import sha256_file

# The files that loading a model reads; they are not in a folder of the repository.
MODEL_FILES = re.compile(r"[^/]*\.(json|jinja|txt|model)|model(-\d{5}-of-\d{5})?\.safetensors")
WEIGHTS = re.compile(r"model(-\d{5}-of-(?P<shards>\d{5}))?\.safetensors")
INDEX = "model.safetensors.index.json"  # says which part holds which weight

FileEntry = Mapping[str, Any]  # `bytes`, and `sha256` (large files) or `git_sha1` (small ones)
Files = Mapping[str, FileEntry]  # {name: its entry}


class HubError(RuntimeError):
    """The hub cannot be read, or lacks what is needed; the message says what to do."""


def resolve_commit(repository: str, kind: str, revision: str | None = None) -> str:
    """The present commit of a branch or tag (default: the main branch), looked up on the hub."""
    from huggingface_hub import HfApi

    needed = f"the commit of {revision or 'the main branch'}"
    with _hub_errors(repository, kind, needed):
        commit = HfApi().repo_info(repository, repo_type=kind, revision=revision).sha
    if commit is None:
        raise HubError(f"{repository}: the hub named no commit. Needed: {needed}. Try again later")
    return commit


def list_files(
    repository: str,
    kind: str,
    commit: str,
    needed: str,
    choose: Callable[[Files], dict[str, FileEntry]],
) -> dict[str, FileEntry]:
    """The files of a repository that `choose` selects, with sizes and hashes; no content is read.

    If the hub cannot be reached, the files in its cache on this machine are listed.

    kind: `model` or `dataset`.
    needed: the needed files in words, for messages.
    choose: raises HubError if it does not find the needed files.
    """
    from huggingface_hub import HfApi, RepoFile

    try:
        with _hub_errors(repository, kind, needed, commit):
            tree = HfApi().list_repo_tree(
                repository, recursive=True, revision=commit, repo_type=kind
            )
            entries = [entry for entry in tree if isinstance(entry, RepoFile)]
    except HubError as unreachable:
        try:
            return choose(_cached_files(repository, kind, commit))
        except HubError:
            raise unreachable from unreachable.__cause__
    return choose(
        {
            e.path: {"bytes": e.size}
            | ({"sha256": e.lfs.sha256} if e.lfs else {"git_sha1": e.blob_id})
            for e in entries
        }
    )


def _cached_files(repository: str, kind: str, commit: str) -> dict[str, FileEntry]:
    """All files of a commit in the hub's cache, in which each blob is named by its hash."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    home = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind)
    folder = home / "snapshots" / commit
    found: dict[str, FileEntry] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        blob = file.resolve()
        kind_of_hash = "git_sha1" if len(blob.name) == 40 else "sha256"
        entry = {"bytes": blob.stat().st_size, kind_of_hash: blob.name}
        found[file.relative_to(folder).as_posix()] = entry
    return found


def fetch(repository: str, kind: str, commit: str, files: Files) -> Path:
    """A folder with `files`, each one verified; files that the cache lacks are downloaded."""
    from huggingface_hub import snapshot_download

    with _hub_errors(repository, kind, ", ".join(files), commit):
        folder = Path(
            snapshot_download(
                repository, repo_type=kind, revision=commit, allow_patterns=list(files)
            )
        )
    verify(folder, files)
    return folder


# Not huggingface_hub's verify_repo_checksums, which reads the hashes from the hub: not offline.
def verify(folder: Path, files: Files) -> None:
    """Raise HubError, which names the file, unless each file has the size and hash on the hub."""
    for name, entry in files.items():
        file = folder / name
        if not file.is_file():
            raise HubError(
                f"{file} is missing. Remove {folder} and run again, so that it is downloaded"
            )
        size = file.stat().st_size
        same = size == entry["bytes"] and (
            sha256_file(file) == entry["sha256"]
            if "sha256" in entry
            else _git_sha1(file) == entry["git_sha1"]
        )
        if not same:
            raise HubError(
                f"{file} differs from the file on the hub ({size} bytes here, {entry['bytes']} "
                f"there, or other content). Remove {file.resolve()} and run again, so that it is "
                "downloaded"
            )


def _git_sha1(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def model_files(repository: str, files: Files) -> dict[str, FileEntry]:
    """The files of a repository that loading the model reads.

    Weights are the files of transformers (`model*.safetensors`), not copies in other formats.
    Raises HubError if the configuration or a part of the weights is missing.
    """
    found = {name: files[name] for name in sorted(files) if MODEL_FILES.fullmatch(name)}
    weights = [match for match in map(WEIGHTS.fullmatch, found) if match]
    shards = max((int(match["shards"] or 1) for match in weights), default=1)
    if "config.json" not in found or len(weights) != shards:
        raise HubError(
            f"{repository}: config.json and model.safetensors, or all of its parts, are needed; "
            f"the repository has {', '.join(sorted(files)) or 'no files'}"
        )
    return found


def describe_model(repository: str, commit: str) -> dict[str, Any]:
    """{model, model_sha, files} of a model on the hub, for its manifest. Downloads no weights."""
    needed, choose = "config.json, model*.safetensors, tokenizer", partial(model_files, repository)
    files = list_files(repository, "model", commit, needed, choose)
    return {"model": repository, "model_sha": commit, "files": files}


def model_commit(manifest: Mapping) -> str | None:
    """The commit of the hub model in a manifest; None for a model in a folder.

    Older manifests have the commit as `revision`.
    """
    return manifest.get("model_sha") or manifest.get("revision")


def model_folder(path: str | Path, manifest: Mapping, weights: bool = True) -> Path:
    """The folder of the model in a manifest: beside the manifest, or in the hub's cache.

    Files from the hub are verified by the hashes in the manifest. With `weights=False`, all files
    but the weights are downloaded, which is enough for the tokenizer.
    """
    commit = model_commit(manifest)
    if commit is None:
        return Path(path).parent / manifest["model"]
    files = manifest["files"]
    if not weights:
        files = {name: entry for name, entry in files.items() if "safetensors" not in name}
    folder = fetch(manifest["model"], "model", commit, files)
    if INDEX in files:
        named = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()
        if unlisted := set(named) - set(files):
            raise HubError(f"{folder / INDEX} names {min(unlisted)!r}, which {path} does not list")
    return folder


def copy_splits(
    folder: str | Path, repository: str, commit: str, parts: Iterable[Sequence[str]]
) -> list[Path]:
    """Copy the files with the (configuration, split) pairs `parts` of a data set below `folder`.

    Returns the copies. Raises HubError, which lists the files, if no file holds one of the parts.
    """
    parts = list(parts)

    def choose(files: Files) -> dict[str, FileEntry]:
        chosen: dict[str, FileEntry] = {}
        for configuration, split in parts:
            found = split_files(files, configuration, split)
            if not found:
                raise HubError(
                    f"{repository} at {commit[:12]}: no .parquet or .jsonl file of the {split} "
                    f"split, configuration {configuration or '(none)'}; the repository has "
                    f"{', '.join(sorted(files))}. Pin `refs/convert/parquet`, the branch with the "
                    "hub's copies in that format (`ablation pin`)"
                )
            chosen |= {name: files[name] for name in found}
        return chosen

    needed = ", ".join(f"{configuration} {split} split".strip() for configuration, split in parts)
    files = list_files(repository, "dataset", commit, needed, choose)
    home, copies = fetch(repository, "dataset", commit, files), []
    for name in files:
        copies.append(Path(folder) / repository / name)
        copies[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(home / name, copies[-1])
    return copies


def read_training_documents(repository: str, commit: str) -> list[dict]:
    """The documents of the training split of a data set, in the order of its files."""

    def choose(files: Files) -> dict[str, FileEntry]:
        try:
            return {name: files[name] for name in training_files(files)}
        except ValueError as error:
            raise HubError(f"{repository} at {commit[:12]}: {error}") from None

    files = list_files(repository, "dataset", commit, "the train split", choose)
    home = fetch(repository, "dataset", commit, files)
    return [document for name in files for document in read_documents(home / name)]


@contextmanager
def _hub_errors(repository: str, kind: str, needed: str, commit: str = "") -> Iterator[None]:
    """Replace errors of huggingface_hub by a HubError with what was needed and what to do."""
    from huggingface_hub import errors

    dataset = kind == "dataset"
    page = f"https://huggingface.co/{'datasets/' if dataset else ''}{repository}"
    login = "`hf auth login`, or HF_TOKEN, with a token that may read it"
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repository}: the hub gives access to users who have accepted its conditions. Accept "
            f"them on {page}, then log in on this machine: {login}. Needed: {needed}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{repository}: the hub has no such revision ({error}). Set its pin to null, then run "
            "`ablation pin` to write a new one"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{repository}: the hub has no such {kind}, or it is private ({page}). Check the name; "
            f"if it is private: {login}. Needed: {needed}"
        ) from error
    except (OSError, errors.HTTPError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"{repository}: the hub refused the token of this machine ({status}). Log in: "
                f"{login}; licence and conditions: {page}. Needed: {needed}"
            ) from error
        download = f"hf download {repository}" + " --repo-type dataset" * dataset
        with_network = "`ablation pin`, then copy the configuration file of the study here"
        if commit:
            with_network = f"`{download} --revision {commit}`, then copy that cache (HF_HOME) here"
        raise HubError(
            f"{repository}: the hub cannot be reached from here, and its cache lacks some of the "
            f"files ({type(error).__name__}). Needed: {needed}. On a machine with a network: "
            f"{with_network}"
        ) from error
