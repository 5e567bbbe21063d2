"""What each stage of the second study depends on, in the order of the study."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from ablation.config.bridge import Bridge
from ablation.config.study import Study
from ablation.provenance.files import file_table, sha256_file, visible_files
from ablation.vocabulary.bridge import DATA_SETS, REGIMES
from ablation.vocabulary.catalogue import BRIDGE
from ablation.workflow.base import Fingerprint, Fingerprints, Slice
from ablation.workflow.bridge_paths import ROLES, BridgePaths


class BridgeFingerprints(Fingerprints):
    """The fingerprints of the second study."""

    def __init__(self, study: Study, block: Bridge, paths: BridgePaths, root: Path) -> None:
        super().__init__(root, BRIDGE, paths)
        self.study, self.block, self.paths = study, block, paths

    # ---- questions and models -------------------------------------------------------------------

    def _bridge_questions(self) -> Slice:
        study, block, regimes = self.study, self.block, self.paths.regimes
        config: dict[str, Any] = {"regimes": list(regimes)}
        if set(regimes) & set(REGIMES):
            assert block.questions and block.world  # checked when the configuration is loaded
            config["questions"] = block.questions.model_dump()
            config["world"] = block.world.model_dump()
        data = {name: block.data[name].model_dump() for name in regimes if name in DATA_SETS}
        if data:
            named = [own["data"] for own in data.values()]
            local = [folder for folder in named if folder not in study.pins]
            files = [file for folder in local for file in visible_files(folder)]
            config["data"] = data
            config["pins"] = {name: study.pins[name] for name in named if name in study.pins}
            config["files"] = file_table(files)
        if block.rehearsal:
            config["rehearsal_of"] = study.study
        return config, {}

    def _bridge_pretrain(self, role: str) -> Slice:
        assert self.block.world  # checked when the configuration is loaded
        recipe = {str(name): block for name, block in self.block.pretrain.items()}[role]
        config = {"world": self.block.world.model_dump(), "role": role}
        return config | {"recipe": recipe.model_dump(), "gpu": self.study.hardware.gpu}, {}

    def _bridge_random(self, role: str) -> Slice:
        random = {str(name): block for name, block in self.block.random.items()}[role]
        return {"random": random.model_dump()}, {}

    def _model(self, role: str) -> Slice:
        name, config = self.paths.name_of(role), {"base": self.paths.folder(role)}
        if self.paths.on_hub(role):
            return config | {"revision": self.study.pins[name]}, {}
        record = self.paths.record(role)
        made_here = {"pretrain": "bridge_pretrain", "random": "bridge_random"}.get(name)
        if made_here:
            return config, {record: self.of(made_here, role)}
        return config | {"record": sha256_file(self.root / record)}, {}

    def _bridge_source(self) -> Slice:
        return self._model("source")

    def _bridge_target(self) -> Slice:
        return self._model("target")

    @cached_property
    def _read(self) -> dict[str, Fingerprint]:
        """{manifest: its fingerprint} of the questions and of both models."""
        models = {self.paths.model(role): self.of(f"bridge_{role}") for role in ROLES}
        return {self.paths.questions: self.of("bridge_questions"), **models}

    # ---- jobs that run the models ---------------------------------------------------------------

    def _words(self, regime: str) -> dict[str, Any]:
        """The settings from which prompts are made, beside the questions."""
        block = self.block
        return {"regime": regime, "max_tokens": block.max_tokens, "chat": block.chat}

    def _bridge_states(self, regime: str, direction: str) -> Slice:
        block = self.block
        recipes = [recipe for recipe in block.recipes.values() if regime in recipe.regimes]
        config = {
            "regime": regime,
            "words": self._words(regime),
            "direction": direction,
            "options": {name: getattr(block, name) for name in ("layer", "teacher_top")},
            "budgets": sorted({k for recipe in recipes for k in recipe.soft_tokens}),
            "answers": block.training.model_dump(include={"max_new_tokens", "eval_batch"}),
            "hardware": self.study.hardware.affecting_results(),
        }
        return config, self._read

    def _bridge_cells(self, regime: str, seed: str) -> Slice:
        block = self.block
        config = {
            "regime": regime,
            "seed": int(seed),
            "recipes": block.cells_of(regime, int(seed)),
            "words": self._words(regime),
            "hardware": self.study.hardware.affecting_results(),
        }
        directions = self.paths.directions(regime)
        activations = {
            self.paths.activations(regime, d): self.of("bridge_states", regime, d)
            for d in directions
        }
        return config, self._read | activations

    def training_state(self, regime: str, seed: str) -> str:
        """The folder in which the trainings of a regime and seed keep their checkpoints."""
        digest = self.of("bridge_cells", regime, seed)["hash"][:12]
        return f"state/{self.study.study}/bridge-{regime}-{seed}-{digest}"

    def _bridge_inference(self, regime: str) -> Slice:
        block, seed = self.block, self.block.seeds[0]
        config = {
            "regime": regime,
            "inference": block.inference.model_dump(),
            "recipe": block.recipe(block.inference.recipe),
            "layer": block.layer,
            "words": self._words(regime),
            "hardware": self.study.hardware.affecting_results(),
        }
        cells = {self.paths.cells(regime, seed): self.of("bridge_cells", regime, seed)}
        return config, self._read | cells

    # ---- tables, figures, pages -----------------------------------------------------------------

    def _measured(self) -> dict[str, Fingerprint]:
        """{manifest that the tables read: its fingerprint}"""
        paths, found = self.paths, {}
        for regime in paths.regimes:
            for direction in paths.directions(regime):
                fingerprint = self.of("bridge_states", regime, direction)
                found[paths.activations(regime, direction)] = fingerprint
            for seed in self.block.seeds_of(regime):
                found[paths.cells(regime, seed)] = self.of("bridge_cells", regime, seed)
            found[paths.inference(regime)] = self.of("bridge_inference", regime)
        return found

    def _bridge_tables(self) -> Slice:
        block = self.block
        config = {
            "study": self.study.study,
            "confidence": self.study.statistics.confidence,
            "claims": block.claims.model_dump(),
            "inference": block.inference.model_dump(),
            "recipes": {name: recipe.model_dump() for name, recipe in block.recipes.items()},
            "seeds": block.seeds,
            "freeze": block.freeze and block.freeze.model_dump(),
            "rehearsal": block.rehearsal,
        }
        return config, self._measured()

    def _bridge_published(self) -> Slice:
        return {"confidence": self.study.statistics.confidence}, {}

    def _bridge_figures(self, figure: str) -> Slice:
        options = {"accuracy_by_k": {"recipe": self.block.claims.all_fixes}}
        config = {"figure": figure, "options": options.get(figure, {})}
        return config, self.behind(self.paths.figures[figure])

    def _bridge_pages(self) -> Slice:
        return {"pages": {n: list(t) for n, t in self.paths.pages.items()}}, self.behind(
            tuple(BRIDGE.tables)
        )

    @cached_property
    def recorded(self) -> list[str]:
        """The manifests whose run records the report shows."""
        models = [self.paths.model(role) for role in ROLES]
        made = [self.paths.record(r) for r in ROLES if self.paths.name_of(r) == "pretrain"]
        tables = self.behind(tuple(BRIDGE.tables))
        return sorted([self.paths.questions, *models, *made, *self.paths.measured, *tables])
