"""Remembers what a fingerprint was, since many rules and jobs ask for the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ablation.provenance.files import canonical_json
from ablation.provenance.fingerprints import make_fingerprint
from ablation.vocabulary.stages import STAGES, script_of

Fingerprint = dict[str, Any]
Upstream = Mapping[str, Mapping]  # {path of a manifest: the fingerprint that it must carry}
Slice = tuple[Mapping, Upstream]  # the configuration that a stage sees, and what it stands on


class Fingerprints:
    """The fingerprints of a study's stages. A subclass has one method a stage, `_<stage>`.

    Such a method returns the part of the configuration that the stage can see, and the manifests
    that it depends on. `ablation.vocabulary.stages` names its script and packages.
    """

    def __init__(self, root: Path) -> None:
        """`root` is the root of the repository."""
        self.root = root
        self._made: dict[tuple[str, ...], Fingerprint] = {}
        self._texts: dict[tuple[str, ...], str] = {}

    def of(self, stage: str, *names: object) -> Fingerprint:
        """The fingerprint of a stage; `names` are its wildcards (recipe, seed, ...)."""
        key = (stage, *map(str, names))
        if key not in self._made:
            slice_of: Callable[..., Slice] = getattr(self, f"_{stage}")
            config, upstream = slice_of(*key[1:])
            script, packages = self.root / script_of(stage), STAGES[stage].packages
            self._made[key] = make_fingerprint(stage, script, config, packages, upstream)
        return self._made[key]

    def text(self, stage: str, *names: object) -> str:
        """The same as canonical JSON: what a rule hands to its job in `params:`."""
        key = (stage, *map(str, names))
        if key not in self._texts:
            self._texts[key] = canonical_json(self.of(*key))
        return self._texts[key]
