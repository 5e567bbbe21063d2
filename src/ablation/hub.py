"""Repositories of the Hugging Face hub at pinned commits: what they hold, and their bytes.

A commit never changes: what the hub's cache on this machine has of it is read from there. Every
file that is handed on has the hash that the hub gives for it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ablation.provenance import sha256_file
from ablation.sources import documents, split_files, training_files

# What loading a model reads: all of these, of the repository's own folder.
MODEL_FILES = re.compile(r"[^/]*\.(json|jinja|txt|model)|model(-\d{5}-of-\d{5})?\.safetensors")
WEIGHTS = re.compile(r"model(-\d{5}-of-(?P<shards>\d{5}))?\.safetensors")

Files = Mapping[str, Mapping[str, int | str]]  # name -> {bytes, and sha256 or git_sha1}


class HubError(RuntimeError):
    """The hub cannot be read, or has not what is wanted; the message says what to do."""


def commit_of(repository: str, kind: str, revision: str | None = None) -> str:
    """The commit that a branch or tag (default: the main branch) stands for now: asks the hub."""
    from huggingface_hub import HfApi

    with _reaching(repository, kind, f"the commit of {revision or 'the main branch'}"):
        return HfApi().repo_info(repository, repo_type=kind, revision=revision).sha


def listing(
    repository: str,
    kind: str,
    commit: str,
    wanted: str,
    choose: Callable[[Files], dict[str, Mapping]],
) -> dict[str, Mapping]:
    """Those files of a repository that `choose` takes: {name: {bytes, and its hash}}.

    The hash is `sha256` of large files and `git_sha1` of small ones, as git names a blob. Where the
    hub cannot be read, from what its cache has here. `choose` raises HubError when it does not find
    what it needs; `wanted` says in words what that is.
    """
    from huggingface_hub import HfApi, RepoFile

    try:
        with _reaching(repository, kind, wanted, commit):
            tree = HfApi().list_repo_tree(
                repository, recursive=True, revision=commit, repo_type=kind
            )
            entries = [entry for entry in tree if isinstance(entry, RepoFile)]
    except HubError as unreachable:
        try:
            return choose(_cached(repository, kind, commit))
        except HubError:
            raise unreachable from unreachable.__cause__
    return choose(
        {
            e.path: {"bytes": e.size}
            | ({"sha256": e.lfs.sha256} if e.lfs else {"git_sha1": e.blob_id})
            for e in entries
        }
    )


def _cached(repository: str, kind: str, commit: str) -> dict[str, dict]:
    """All files that stand in the cache, whose blobs are named by their hash."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    home = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind)
    folder, found = home / "snapshots" / commit, {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        blob = file.resolve()
        known = {"git_sha1": blob.name} if len(blob.name) == 40 else {"sha256": blob.name}
        found[file.relative_to(folder).as_posix()] = {"bytes": blob.stat().st_size} | known
    return found


def fetch(repository: str, kind: str, commit: str, files: Files) -> Path:
    """A folder that holds `files`, each one checked: brought from the hub if they are not here."""
    from huggingface_hub import snapshot_download

    with _reaching(repository, kind, ", ".join(files), commit):
        folder = Path(
            snapshot_download(
                repository, repo_type=kind, revision=commit, allow_patterns=list(files)
            )
        )
    verify(folder, files)
    return folder


def verify(folder: Path, files: Files) -> None:
    """Raise HubError, naming the file, unless each has the bytes that the hub says it has."""
    for name, entry in files.items():
        file = folder / name
        if not file.is_file():
            raise HubError(f"{file} is missing: remove {folder} and run again, to fetch it anew")
        size = file.stat().st_size
        same = size == entry["bytes"] and (
            sha256_file(file) == entry["sha256"]
            if "sha256" in entry
            else _git_sha1(file) == entry["git_sha1"]
        )
        if not same:
            raise HubError(
                f"{file} is not what the hub has ({size} bytes, {entry['bytes']} there, or other "
                f"content): remove {file.resolve()} and run again, to fetch it anew"
            )


def _git_sha1(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def model_files(repository: str, files: Files) -> dict[str, Mapping]:
    """Those of a repository's files that loading the model reads.

    Weights are those of transformers (`model*.safetensors`), not a second copy in another form.
    Raises HubError when there is no configuration or not all of the weights.
    """
    found = {name: files[name] for name in sorted(files) if MODEL_FILES.fullmatch(name)}
    weights = [match for match in map(WEIGHTS.fullmatch, found) if match]
    shards = max((int(match["shards"] or 1) for match in weights), default=1)
    if "config.json" not in found or len(weights) != shards:
        raise HubError(
            f"{repository}: config.json and model.safetensors, or all of its parts, are needed; "
            f"there are {', '.join(sorted(files)) or 'no files'}"
        )
    return found


def model_facts(repository: str, commit: str) -> dict:
    """{model, model_sha, files} of a hub model, as its manifest has them; brings no weights."""
    wanted, choose = "config.json, model*.safetensors, tokenizer", partial(model_files, repository)
    files = listing(repository, "model", commit, wanted, choose)
    return {"model": repository, "model_sha": commit, "files": files}


def commit_in(manifest: Mapping) -> str | None:
    """The commit of the hub model that a manifest names; None of a folder's. Once: `revision`."""
    return manifest.get("model_sha") or manifest.get("revision")


def model_folder(path: str | Path, manifest: Mapping, weights: bool = True) -> Path:
    """The folder of the model that a manifest names: beside it, or in the hub's cache.

    From the hub, every file is checked against the hashes in the manifest. Without `weights` only
    what the tokenizer needs is brought here.
    """
    commit = commit_in(manifest)
    if commit is None:
        return Path(path).parent / manifest["model"]
    files = manifest["files"]
    if not weights:
        files = {name: entry for name, entry in files.items() if "safetensors" not in name}
    return fetch(manifest["model"], "model", commit, files)


def copy_splits(
    folder: str | Path, repository: str, commit: str, parts: Iterable[Sequence[str]]
) -> list[Path]:
    """Copies of the files with the (configuration, split) `parts` of a data set, below `folder`.

    Raises HubError that lists what is there when a part is in none of the files.
    """

    def choose(files: Files) -> dict[str, Mapping]:
        chosen = {}
        for configuration, split in parts:
            found = split_files(files, configuration, split)
            if not found:
                raise HubError(
                    f"{repository} at {commit[:12]}: no .parquet or .jsonl file of the {split} "
                    f"split, configuration {configuration or '(none)'}; there are "
                    f"{', '.join(sorted(files))}. Pin `refs/convert/parquet` (`ablation pin`), "
                    "where the hub keeps its own copies"
                )
            chosen |= {name: files[name] for name in found}
        return chosen

    wanted = ", ".join(f"{configuration} {split} split".strip() for configuration, split in parts)
    files = listing(repository, "dataset", commit, wanted, choose)
    home, copies = fetch(repository, "dataset", commit, files), []
    for name in files:
        copies.append(Path(folder) / repository / name)
        copies[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(home / name, copies[-1])
    return copies


def training_documents(repository: str, commit: str) -> list[dict]:
    """The documents of a data set's train split, in the order of its files."""

    def choose(files: Files) -> dict[str, Mapping]:
        try:
            return {name: files[name] for name in training_files(files)}
        except ValueError as fault:
            raise HubError(f"{repository} at {commit[:12]}: {fault}") from None

    files = listing(repository, "dataset", commit, "the train split", choose)
    home = fetch(repository, "dataset", commit, files)
    return [document for name in files for document in documents(home / name)]


@contextmanager
def _reaching(repository: str, kind: str, wanted: str, commit: str = "") -> Iterator[None]:
    """Turn what huggingface_hub raises into a HubError that says what to do."""
    from huggingface_hub import errors

    dataset = kind == "dataset"
    page = f"https://huggingface.co/{'datasets/' if dataset else ''}{repository}"
    login = "`hf auth login`, or HF_TOKEN, with a token that may read it"
    try:
        yield
    except errors.GatedRepoError as fault:
        raise HubError(
            f"{repository}: the hub gives it to those who have accepted its conditions. Accept "
            f"them on {page}, then log in on this machine: {login}. Wanted: {wanted}"
        ) from fault
    except errors.RevisionNotFoundError as fault:
        raise HubError(
            f"{repository}: the hub has no such revision ({fault}). Set its pin to null and ask "
            "for another: `ablation pin`"
        ) from fault
    except errors.RepositoryNotFoundError as fault:
        raise HubError(
            f"{repository}: the hub has no such {kind}, or a private one ({page}). Check the name; "
            f"if it is private: {login}. Wanted: {wanted}"
        ) from fault
    except (OSError, errors.HTTPError) as fault:
        status = getattr(getattr(fault, "response", None), "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"{repository}: the hub refused this machine's token ({status}). Log in: {login}; "
                f"licence and conditions: {page}. Wanted: {wanted}"
            ) from fault
        download = f"hf download {repository}" + " --repo-type dataset" * dataset
        remedy = f"`{download} --revision {commit}`, then bring that cache (HF_HOME) here"
        raise HubError(
            f"{repository}: the hub cannot be reached from here, and the cache has not all of it "
            f"({type(fault).__name__}). Wanted: {wanted}. Where there is a network: "
            + (remedy if commit else "`ablation pin`, then bring the study's file here")
        ) from fault
