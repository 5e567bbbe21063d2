"""The Provenance Run Crate of a study, which is deposited only if it describes these very files.

No manifest has the crate's hash, so `ablation verify` does not find an edited one, or one that was
written before a job ran again. The crate names the SHA-256 of each of its files: those that are
here are hashed again. What else it says (times, machines, costs) has no second source here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ablation.provenance.files import sha256_file
from ablation.provenance.manifests import WORKFLOW_COPY
from ablation.publication.checkpoint import NotPublishable
from ablation.publication.metadata import DESCRIPTOR


def crate_of_study(home: Path) -> Path | None:
    """The crate beside the study in `home`; None if there is none, or it is of another study.

    Raises NotPublishable, which names the file, if the crate gives another hash of a file than the
    file has. Files that are gone since, such as weights, are not compared.
    """
    path = home.parent / DESCRIPTOR
    if not path.is_file():
        return None
    files = dict(_files(path))
    if f"{home.name}/recovery.manifest.json" not in files:
        return None
    for name, sha256 in files.items():
        parts = Path(name).parts
        of_study = parts[:1] in ((home.name,), (WORKFLOW_COPY,))  # results/*.csv may be another's
        if ".." in parts or not of_study or not (home.parent / name).is_file():
            continue
        if sha256_file(home.parent / name) != sha256:
            raise NotPublishable(
                f"{path} describes another {home.parent / name} than the one that is here: it was "
                "edited, or was written before that file.\nNothing was deposited. Write it again: "
                "snakemake --reporter runcrate\nOr remove it, to deposit the study without it"
            )
    return path


def _files(path: Path) -> Iterator[tuple[str, Any]]:
    """(path in the crate, SHA-256) of each file that a crate describes."""
    try:
        entities = json.loads(path.read_text("utf-8"))["@graph"]
        for entity in entities:
            if "File" in (entity["@type"], *entity["@type"]):
                yield unquote(entity["@id"]), entity.get("sha256")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotPublishable(
            f"{path} is no RO-Crate ({type(error).__name__}).\nNothing was deposited. Write it "
            "again: snakemake --reporter runcrate\nOr remove it, to deposit the study without it"
        ) from None
