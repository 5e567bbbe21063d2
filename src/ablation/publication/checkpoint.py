"""The checkpoint of a study that is to be published, and whether it may be.

Everything is read from manifests, which must verify: a card that cites edited results is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.data.hub import MODEL_FILES, model_commit
from ablation.lineage.lineage import run_beside
from ablation.lineage.verify import Verified, verify
from ablation.provenance.manifests import Manifest, load_manifest

CHECKPOINTS = "stage[35]_*/*/seed*/manifest.json"
# The `format` and file of weights of a class of models that cannot save itself.
RAW_FORMAT, RAW_WEIGHTS = "raw_state_dict", "raw_state_dict.safetensors"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class NotPublishable(RuntimeError):
    """The results cannot be published as they are; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """One trained model of a study.

    home: the folder of the study. manifest: the content of the file `path`. base: the manifest of
    the base, empty if there is none. verified: what `ablation verify` says of the whole study.
    """

    home: Path
    path: Path
    manifest: Manifest
    base: Manifest
    verified: Verified

    @property
    def recipe(self) -> str:
        """The name of its recipe."""
        return str(self.manifest["recipe"])

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return int(self.manifest["seed"])

    @property
    def config(self) -> dict[str, Any]:
        """The part of the configuration that its training depended on."""
        return self.manifest["fingerprint"]["config"]

    @property
    def train_mask(self) -> str | None:
        """The mask of its training, if its manifest names one."""
        return (self.config.get("recipe") or {}).get("train_mask")

    @property
    def run(self) -> Mapping[str, Any]:
        """The run record of its training; empty if it is not here."""
        return run_beside(self.path) or {}

    @property
    def files(self) -> dict[str, Path]:
        """{name in a model repository: file} of weights, configuration and tokenizer.

        Only files that loading a model reads, never code. Weights may be gone.
        """
        inside = f"{self.manifest['model']}/"
        outputs = (name for name in self.manifest["outputs"] if name.startswith(inside))
        names = (name.removeprefix(inside) for name in outputs)
        wanted = (n for n in names if MODEL_FILES.fullmatch(n) or n == RAW_WEIGHTS)
        return {name: self.path.parent / inside / name for name in sorted(wanted)}

    def size_of(self, name: str) -> int:
        """The bytes of one of `files`, by the manifest."""
        return int(self.entry_of(name)["bytes"])

    def entry_of(self, name: str) -> Mapping[str, Any]:
        """The hash and size of one of `files`, by the manifest."""
        return self.manifest["outputs"][f"{self.manifest['model']}/{name}"]

    @property
    def base_on_hub(self) -> tuple[str, str] | None:
        """(name, commit) of the base on the hub; None for a model from a folder."""
        commit, name = model_commit(self.base), str(self.base.get("model", ""))
        return (name, commit) if commit and REPOSITORY.fullmatch(name) else None


def find_checkpoint(home: Path, name: str) -> Checkpoint:
    """The checkpoint `RECIPE/seedN` of the study in `home`.

    Raises NotPublishable if there is none, or if a file of the study is not as it was made or
    sealed, and StaleInput for a manifest that cannot be read.
    """
    known = {"/".join(path.parts[-3:-1]): path for path in sorted(home.glob(CHECKPOINTS))}
    if name not in known:
        raise NotPublishable(
            f"{home} has no checkpoint {name!r}. It has: {', '.join(known) or 'none'}"
        )
    verified = require_verified(home)
    base = home / "base" / "manifest.json"
    found = load_manifest(known[name])
    expected = {"model": str, "recipe": str, "seed": int}
    if missing := [key for key, kind in expected.items() if not isinstance(found.get(key), kind)]:
        raise NotPublishable(
            f"{known[name]} has no {' and no '.join(missing)}, which the manifest of a checkpoint "
            "has.\nNothing was sent. Only checkpoints that this workflow trained can be published, "
            "because the card says how:\nablation publish hf://OWNER/MODEL --checkpoint RECIPE/SEED"
        )
    return Checkpoint(
        home, known[name], found, load_manifest(base) if base.is_file() else {}, verified
    )


def require_verified(home: Path) -> Verified:
    """What `ablation verify` says of a study. Raises NotPublishable if it names a problem."""
    verified = verify(home)
    if verified.problems:
        raise NotPublishable(
            f"{len(verified.problems)} files of {home} are not as they were made or sealed, so "
            f"nothing is published. `ablation verify {home}` names all; the first:\n"
            f"{verified.problems[0]}"
        )
    return verified
