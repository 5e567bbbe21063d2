"""Sends a checkpoint to a model repository on the Hugging Face hub, in one commit.

The hub stores large files by their hash before the commit: an interrupted upload goes on where it
ended, a second one sends nothing, and readers never see half a model. The commit names the one that
was looked at before it, so that it cannot replace what somebody else pushes meanwhile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ablation.provenance.manifests import StaleInput, load_manifest
from ablation.publication.card import model_card, own_tables
from ablation.publication.checkpoint import REPOSITORY, Checkpoint, NotPublishable
from ablation.publication.eval_results import FILE, eval_results
from ablation.publication.licence import licence_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKEN = "HF_TOKEN"
SCHEME = "hf://"
CARD, MANIFEST = "README.md", "ablation/manifest.json"
# Files of a repository that the hub itself makes.
OF_THE_HUB = {".gitattributes", CARD}
CHANGED_MEANWHILE = 412  # the hub's answer if the parent of a commit is no longer the last commit


@dataclass(frozen=True)
class Publication:
    """What would be sent: {name in the repository: a file, or a text} with sizes in bytes."""

    repository: str
    card: str
    content: Mapping[str, Path | str]
    sizes: Mapping[str, int]

    @property
    def missing(self) -> list[str]:
        """The names of files that are not here, such as removed weights."""
        return [n for n, c in self.content.items() if isinstance(c, Path) and not c.is_file()]


def repository_of(uri: str) -> str:
    """`owner/model` of `hf://owner/model`. Raises NotPublishable."""
    repository = uri.removeprefix(SCHEME)
    if not uri.startswith(SCHEME) or not REPOSITORY.fullmatch(repository):
        raise NotPublishable(
            f"{uri}: hf://OWNER/MODEL was expected. `ablation push` sends studies to data sets"
        )
    return repository


def prepare(
    repository: str, checkpoint: Checkpoint, license: str | None, config: Path
) -> Publication:
    """Everything that the repository will hold; config: the folder with the files of tasks.

    Raises NotPublishable if the licence is unknown or the study has no table.
    """
    licence = licence_of(checkpoint, license)
    own = own_tables(checkpoint, str(checkpoint.seed))
    results = eval_results(checkpoint, own.rows, config)
    card = model_card(repository, checkpoint, licence, own, bool(results))
    content: dict[str, Path | str] = {CARD: card, MANIFEST: checkpoint.path, **checkpoint.files}
    content |= {FILE: results} if results else {}
    sizes = {
        name: checkpoint.size_of(name)
        if name in checkpoint.files
        else len(found.encode())
        if isinstance(found, str)
        else found.stat().st_size
        for name, found in content.items()
    }
    return Publication(repository, card, content, sizes)


def upload(publication: Publication, public: bool) -> str:
    """Send what the hub lacks in one commit; returns the address of the commit.

    public: whether a new repository is public; an existing one stays as it is. Raises
    NotPublishable if weights are not here, without a token, if the repository holds another model
    or changes meanwhile, or if the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HTTPError

    if lost := publication.missing:
        raise NotPublishable(
            f"{len(lost)} files are not here, such as {lost[0]}: `ablation pull` brings weights "
            "that were pushed with --weights; or train again"
        )
    token = os.environ.get(TOKEN, "").strip()
    if not re.fullmatch("[!-~]+", token):  # the client prints a token that no header can hold
        raise NotPublishable(
            f"The environment has no valid {TOKEN}: set it to a token of the hub that may write to "
            f"{publication.repository}. It is read from nowhere else"
        )
    hub, name = HfApi(token=token), publication.repository
    try:
        hub.create_repo(name, private=not public, exist_ok=True)
        parent = str(hub.model_info(name).sha)
        there = set(hub.list_repo_files(name, revision=parent))
        _refuse_other(hub, parent, there, publication)
        # Evaluation results that no longer hold would stay beside the new weights.
        gone = [CommitOperationDelete(FILE)] if FILE in there - set(publication.content) else []
        commit = hub.create_commit(
            name,
            [
                *(
                    CommitOperationAdd(place, found.encode() if isinstance(found, str) else found)
                    for place, found in publication.content.items()
                ),
                *gone,
            ],
            commit_message=f"ablation publish: {len(publication.content)} files",
            parent_commit=parent,
        )
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, NotPublishable):
            raise
        if getattr(getattr(error, "response", None), "status_code", None) == CHANGED_MEANWHILE:
            raise NotPublishable(
                f"{name} has a commit that this command has not seen: somebody else pushed to it "
                "meanwhile. Nothing in the repository was replaced.\nRead its new commit, then run "
                "the same command again, or publish under another name"
            ) from error
        said = getattr(error, "server_message", None) or str(error) or type(error).__name__
        first = said.strip().splitlines()[0]
        raise NotPublishable(
            f"{name} could not be published: {first}\nNothing in the repository has changed. "
            "Run the same command again: what the hub has stored is not sent a second time"
        ) from error
    return str(commit.commit_url)


def _refuse_other(hub: HfApi, commit: str, there: set[str], publication: Publication) -> None:
    """Raise NotPublishable unless the repository is empty, or holds this checkpoint of this study.

    there: the names of its files at `commit`.

    Weights of another model would be replaced, loaded in place of these, or loaded with them.
    """
    repository, here = publication.repository, sorted(there - OF_THE_HUB)
    next_action = "Publish under another name, or remove them there first"
    if others := [name for name in here if name not in {*publication.content, FILE}]:
        raise NotPublishable(
            f"{repository} holds {len(others)} other files, such as {others[0]}. {next_action}"
        )
    if here and _identity(hub, repository, commit, there) != _named(publication.content[MANIFEST]):
        raise NotPublishable(
            f"{repository} holds another model, whose {len(here)} files, such as {here[0]}, would "
            f"be replaced: its {MANIFEST} names no such recipe, seed and study. {next_action}"
        )


def _identity(hub: HfApi, repository: str, commit: str, there: set[str]) -> tuple[object, ...]:
    """`_named` of the manifest in a repository; empty if it has none that can be read."""
    if MANIFEST not in there:
        return ()
    with TemporaryDirectory() as folder, suppress(StaleInput):
        return _named(hub.hf_hub_download(repository, MANIFEST, revision=commit, local_dir=folder))
    return ()


def _named(path: Path | str) -> tuple[object, ...]:
    """What names a checkpoint: recipe, seed, and its inputs, whose paths have the study."""
    manifest = load_manifest(path)
    return manifest.get("recipe"), manifest.get("seed"), sorted(manifest["inputs"])
