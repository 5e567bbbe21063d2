"""Where the results of the second study stand, and which files its jobs read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from ablation.config.bridge import Bridge
from ablation.config.study import Study
from ablation.provenance.files import visible_files
from ablation.vocabulary.bridge import DATA_SETS, REGIMES, SPLITS
from ablation.vocabulary.catalogue import BRIDGE
from ablation.workflow.base import TablePaths

ROLES = ("source", "target")
# The files that the tables read, by the folder of the jobs that write them.
READ_BY_TABLES = {
    "states": ("samples.parquet",),
    "cells": ("samples.parquet", "summary.json", "curve.jsonl"),
    "inference": ("inference_per_sample.jsonl",),
}


class BridgePaths(TablePaths):
    """Paths of one bridge study, relative to the root of the repository."""

    prefix = "bridge_"

    def __init__(self, study: Study, block: Bridge, in_storage: bool = False) -> None:
        self.study, self.block, self.in_storage = study, block, in_storage
        self.results = f"results/{study.study}/bridge"
        self.questions = f"{self.results}/questions/manifest.json"
        recipes = block.recipes.values()
        self.regimes = [r for r in (*REGIMES, *DATA_SETS) if any(r in c.regimes for c in recipes)]

    def directions(self, regime: str) -> list[str]:
        """The directions of a regime: also `swapped` if one of its recipes swaps the models."""
        recipes = [c for c in self.block.recipes.values() if regime in c.regimes]
        return ["forward", *["swapped"] * any(c.swapped for c in recipes)]

    # ---- models ---------------------------------------------------------------------------------

    def name_of(self, role: str) -> str:
        """What the configuration says of the source or of the target."""
        return str(getattr(self.block, role))

    def on_hub(self, role: str) -> bool:
        """Whether the model is one of the hub: it is named in `pins`."""
        return self.name_of(role) in self.study.pins

    def own(self, role: str) -> str | None:
        """The folder of a model that this project made; None for one of somebody else."""
        return {
            "shipped": f"resources/micro_bridge/{role}",
            "pretrain": f"{self.results}/pretrained/{role}",
            "random": f"{self.results}/random/{role}",
        }.get(self.name_of(role))

    def model(self, role: str) -> str:
        """The manifest of the source or of the target."""
        return f"{self.results}/models/{role}.manifest.json"

    def record(self, role: str) -> str:
        """The small file that says what a model is; empty for a model of the hub."""
        if self.on_hub(role):
            return ""
        own = self.own(role)
        return f"{own}/manifest.json" if own else f"{self.name_of(role)}/config.json"

    def folder(self, role: str) -> str:
        """Where a model's own files stand; of a model of the hub, its name there."""
        own = self.own(role)
        return f"{own}/model" if own else self.name_of(role)

    def files(self, role: str) -> list[str]:
        """All files of a checkpoint of somebody else; our manifests name those of ours."""
        if self.own(role) or self.on_hub(role):
            return []
        return [path.as_posix() for path in visible_files(self.folder(role))]

    @cached_property
    def weights(self) -> list[str]:
        """Folders of both models, as `Paths.base_weights`."""
        roles = [role for role in ROLES if not self.on_hub(role)]
        if self.in_storage:
            roles = [role for role in roles if self.made_here(role)]
        return [self.folder(role) for role in roles]

    def made_here(self, role: str) -> bool:
        """Whether a job of the study makes the source or the target."""
        return self.name_of(role) in ("pretrain", "random")

    # ---- jobs -----------------------------------------------------------------------------------

    def asked(self, regime: str) -> list[str]:
        """The questions of a regime, a file a split."""
        return [f"{self.results}/questions/{regime}/{split}.jsonl" for split in SPLITS]

    def activations(self, regime: str, direction: str) -> str:
        """The manifest of the cached activations of a regime and direction."""
        return f"{self.results}/states/{regime}/{direction}/manifest.json"

    def every_activations(self, regime: str) -> list[str]:
        """The manifests of the cached activations of a regime."""
        return [self.activations(regime, direction) for direction in self.directions(regime)]

    def activation_files(self, regime: str) -> list[str]:
        """The cached activations of a regime, and the rows of the arms alone."""
        homes = [Path(manifest).parent for manifest in self.every_activations(regime)]
        return [f"{home}/{name}" for home in homes for name in (*SPLITS, "samples.parquet")]

    def cells(self, regime: str, seed: object) -> str:
        """The manifest of the translators of a regime and seed."""
        return f"{self.results}/cells/{regime}/seed{seed}/manifest.json"

    def timed(self, regime: str) -> str:
        """The manifest of the translators whose cost is measured: those of the first seed."""
        return self.cells(regime, self.block.seeds[0])

    @property
    def timed_translators(self) -> str:
        """Their folder, with the wildcard of the regime."""
        return f"{self.results}/cells/{{regime}}/seed{self.block.seeds[0]}/translators"

    def inference(self, regime: str) -> str:
        """The manifest of the measured cost of the arms."""
        return f"{self.results}/inference/{regime}/manifest.json"

    @cached_property
    def measured(self) -> list[str]:
        """The manifests that the tables read, in the order of the study."""
        found = []
        for regime in self.regimes:
            found += self.every_activations(regime)
            found += [self.cells(regime, seed) for seed in self.block.seeds_of(regime)]
            found.append(self.inference(regime))
        return found

    @cached_property
    def read_by_tables(self) -> list[str]:
        """The files beside those manifests that the tables read."""
        homes = [Path(manifest).parent for manifest in self.measured]
        kinds = [home.relative_to(self.results).parts[0] for home in homes]
        pairs = zip(homes, kinds, strict=True)
        return [f"{home}/{name}" for home, kind in pairs for name in READ_BY_TABLES[kind]]

    # ---- tables and pages -----------------------------------------------------------------------

    @cached_property
    def tables(self) -> list[str]:
        """The names of the tables that are computed from sample rows."""
        return [name for name, table in BRIDGE.tables.items() if table.made_by == "bridge_tables"]

    @cached_property
    def figures(self) -> dict[str, tuple[str, ...]]:
        """{figure: its tables}"""
        return {name: figure.tables for name, figure in BRIDGE.figures.items()}

    @cached_property
    def pages(self) -> dict[str, tuple[str, ...]]:
        """{page of the report: the tables that it shows}"""
        return {name: page.tables for name, page in BRIDGE.pages.items() if page.tables}
