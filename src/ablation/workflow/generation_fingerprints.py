"""What the stages of generation tasks depend on. Scores of choices depend on none of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ablation.data.local_files import hashes
from ablation.data.task_files import task_hashes
from ablation.vocabulary.generation import ABLATED_GENERATION_MASKS
from ablation.vocabulary.masks import CAUSAL, MASKS
from ablation.vocabulary.recipes import stage_of
from ablation.workflow.base import Fingerprint, Slice
from ablation.workflow.fingerprints import StudyFingerprints


class GenerationFingerprints(StudyFingerprints):
    """The fingerprints of the first study, with those of its generation tasks."""

    # ---- items ----------------------------------------------------------------------------------

    @property
    def generation_items_stage(self) -> str:
        """The stage that brings the data sets of generation tasks."""
        local = self.study.evaluation.data_folder
        return "local_generation_items" if local else "fetch_generation_items"

    def _fetch_generation_items(self) -> Slice:
        data_sets = self.paths.generation_splits
        return {"data_sets": data_sets, **self._origin(list(data_sets))}, {}

    def _local_generation_items(self) -> Slice:
        files = self.paths.local_generation_splits
        return {"files": hashes(files, self.paths.generation_benchmarks)}, {}

    @cached_property
    def generation_items(self) -> dict[str, Fingerprint]:
        """{manifest: its fingerprint} of the items of the study's generation tasks."""
        paths = self.paths
        world = self.world_items if paths.asks_of_the_world else {}
        if not paths.generation_splits:
            return world
        return world | {paths.generation_benchmarks: self.of(self.generation_items_stage)}

    # ---- texts ----------------------------------------------------------------------------------

    @cached_property
    def _generating(self) -> dict[str, Any]:
        """What every generation job sees. A token a step needs no rows and no compiled kernels."""
        tasks, hardware = self.paths.generation_tasks, self.scoring_hardware
        without = ("metric", "data_folder", "row_tokens", "batch_tokens")
        attention = "eager" if hardware.attention == "eager" else "sdpa"
        plain = hardware.model_copy(update={"attention": attention, "compile": False})
        return {
            "evaluation": self._evaluation(tasks, *without),
            "hardware": plain.affecting_results(),
            "task_files": task_hashes(self.root / "config", tasks),
        }

    def _generated(self, manifest: str, checkpoint: Fingerprint, condition: str) -> Slice:
        """The texts of a checkpoint under a mask, an intervention, or without it."""
        mask = condition if condition in MASKS else CAUSAL
        config: dict[str, Any] = {**self._generating, "masks": [mask], "condition": mask}
        if condition in self.study.interventions:
            config |= self._taken(condition)
        return config, {manifest: checkpoint, **self.generation_items}

    def _stage1_generation(self) -> Slice:
        return self._generated(self.paths.base, self.of("base"), CAUSAL)

    def _stage2_generation(self, condition: str) -> Slice:
        return self._generated(self.paths.base, self.of("base"), condition)

    def _stage4_generation(self, recipe: str, seed: str, condition: str) -> Slice:
        checkpoint = self.of(stage_of(recipe), recipe, seed)
        return self._generated(self.paths.checkpoint(recipe, seed), checkpoint, condition)

    _stage5_generation = _stage4_generation

    @cached_property
    def measured(self) -> dict[str, Fingerprint]:
        """{manifest: its fingerprint} of everything that the study scores or generates."""
        return super().measured | self._generated_texts

    @property
    def _generated_texts(self) -> dict[str, Fingerprint]:
        """{manifest: its fingerprint} of everything that the study generates."""
        paths = self.paths
        if not paths.generation_tasks:
            return {}
        found = {paths.generated(paths.baseline): self.of("stage1_generation")}
        for name in (*ABLATED_GENERATION_MASKS, *self.study.interventions):
            made = self.of("stage2_generation", name)
            found[paths.generated(f"{paths.ablation}/{name}")] = made
        for recipe in paths.recipes:
            stage = "stage5_generation" if recipe in paths.long else "stage4_generation"
            for seed in self.study.seeds:
                for condition in paths.generates_under(recipe):
                    home = f"{paths.evaluated(recipe, seed)}/{condition}"
                    found[paths.generated(home)] = self.of(stage, recipe, seed, condition)
        return found
