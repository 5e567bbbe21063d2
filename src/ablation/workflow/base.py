"""Makes each fingerprint once, since many rules and jobs need the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ablation.config.interventions import distribution_of, modules_of
from ablation.provenance.accepted import read_accepted, unchecked_stages
from ablation.provenance.files import canonical_json
from ablation.provenance.fingerprints import make_fingerprint
from ablation.vocabulary.catalogue import MARKED, Catalogue
from ablation.vocabulary.stages import STAGES, script_of

Fingerprint = dict[str, Any]
Upstream = Mapping[str, Mapping]  # {path of a manifest: the fingerprint that it must carry}
Slice = tuple[Mapping, Upstream]  # the configuration that a stage sees, and its inputs


class TablePaths:
    """The places of tables; a subclass has the folder of its results.

    results: the folder of a study's tables.
    prefix: the part of the names of stages that the names of manifests lack.
    """

    results: str
    prefix = ""

    def table(self, name: str) -> str:
        """The CSV file of a table."""
        return f"{self.results}/{name}.csv"

    def manifest_of(self, stage: str) -> str:
        """The manifest of a stage that makes tables."""
        return f"{self.results}/{stage.removeprefix(self.prefix)}.manifest.json"


class Fingerprints:
    """The fingerprints of a study's stages. A subclass has one method a stage, `_<stage>`.

    Such a method returns the part of the configuration that the stage can see, and the manifests
    that it depends on. `ablation.vocabulary.stages` names its script and packages.
    """

    def __init__(self, root: Path, catalogue: Catalogue, paths: TablePaths) -> None:
        """`root` is the root of the repository; `catalogue` has the study's tables."""
        self.root, self._catalogue, self._table_paths = root, catalogue, paths
        self._made: dict[tuple[str, ...], Fingerprint] = {}
        self._texts: dict[tuple[str, ...], str] = {}

    def of(self, stage: str, *names: object) -> Fingerprint:
        """The fingerprint of a stage; `names` are its wildcards (recipe, seed, ...)."""
        key = (stage, *map(str, names))
        if key not in self._made:
            slice_of: Callable[..., Slice] = getattr(self, f"_{stage}")
            config, upstream = slice_of(*key[1:])
            script, packages = self.root / script_of(stage), STAGES[stage].packages
            unchecked = self._unchecked_behind(upstream) if stage in MARKED else ()
            taken = config.get("intervention") or {}
            adapted = "peft" if (config.get("recipe") or {}).get("adapter") else None
            packages = (*packages, *filter(None, [distribution_of(taken), adapted]))
            self._made[key] = make_fingerprint(
                stage, script, config, packages, upstream, unchecked, modules_of(taken)
            )
        return self._made[key]

    def _unchecked_behind(self, upstream: Upstream) -> list[str]:
        """The stages behind a table whose code was accepted by a reason alone."""
        if not read_accepted(self.root):
            return []
        made = {fingerprint["hash"]: fingerprint for fingerprint in self._made.values()}
        behind: dict[str, Mapping] = {}
        pending = dict(upstream)
        while pending:
            path, fingerprint = pending.popitem()
            behind[path] = fingerprint
            above = fingerprint["upstream"].items()
            pending |= {path: made[own] for path, own in above if path not in behind}
        return unchecked_stages(behind, self.root)

    def text(self, stage: str, *names: object) -> str:
        """The same as canonical JSON: what a rule hands to its job in `params:`."""
        key = (stage, *map(str, names))
        if key not in self._texts:
            self._texts[key] = canonical_json(self.of(*key))
        return self._texts[key]

    def behind(self, tables: Iterable[str]) -> dict[str, Fingerprint]:
        """{manifest of a stage that makes these tables: its fingerprint}."""
        stages = self._catalogue.stages_behind(tables)
        return {self._table_paths.manifest_of(stage): self.of(stage) for stage in stages}
