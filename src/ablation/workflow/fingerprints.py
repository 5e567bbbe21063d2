"""What each stage of the first study depends on, in the order of the study.

A fingerprint is everything that can change the results of a stage: code, the part of the
configuration that it sees, package versions, and the fingerprints of its inputs. Snakemake
compares fingerprints as `params:`, and every job checks them in the manifests that it reads.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from ablation.analysis.published_training import training_settings
from ablation.config.study import Hardware, Study
from ablation.data.local_files import hashes
from ablation.data.task_files import task_hashes
from ablation.provenance.files import canonical_json, sha256_file, sha256_text
from ablation.provenance.fingerprints import without_keys
from ablation.vocabulary.catalogue import FIRST
from ablation.vocabulary.interventions import LIFTED
from ablation.vocabulary.masks import ABLATED_MASKS, CAUSAL, SAMPLED_MASKS
from ablation.vocabulary.recipes import stage_of
from ablation.vocabulary.stages import STAGES
from ablation.workflow.base import Fingerprint, Fingerprints, Slice
from ablation.workflow.paths import Paths


class StudyFingerprints(Fingerprints):
    """The fingerprints of the first study."""

    def __init__(self, study: Study, paths: Paths, root: Path) -> None:
        super().__init__(root, FIRST, paths)
        self.study, self.paths = study, paths

    @cached_property
    def scoring_hardware(self) -> Hardware:
        """That of one card: its scores do not depend on how many cards share the items."""
        return self.study.hardware.of_scoring()

    # ---- stage 0: base, items, finetuning records -----------------------------------------------

    def _world(self, *parts: str) -> dict[str, Any]:
        """The micro-world's facts and splits, and those parts of its block that a stage uses."""
        keys = {"seed", "eval_percent", "dev_percent", *parts}
        return {"world": self.study.world.model_dump(include=keys)}

    def _origin(self, data_sets: list[str]) -> dict[str, Any]:
        """The commits of hub data sets, or the seed of a rehearsal's generated texts."""
        if self.study.rehearsal:
            return {"seed": self.study.random.seed}
        return {"pins": {data: self.study.pins.get(data) for data in data_sets}}

    @property
    def items_stage(self) -> str:
        """The stage that brings the benchmarks' data sets."""
        if self.study.evaluation.data_folder:
            return "local_items"
        return "generate_items" if self.study.rehearsal else "fetch_items"

    @property
    def instructions_stage(self) -> str:
        """The stage that brings the finetuning records."""
        if not self.study.instructions:
            return "base_instructions"
        if self.study.local_instructions:
            return "local_instructions"
        return "generate_instructions" if self.study.rehearsal else "fetch_instructions"

    def _base_items(self) -> Slice:
        return self._world("items"), {}

    def _fetch_items(self) -> Slice:
        data_sets = self.paths.splits
        return {"data_sets": data_sets, **self._origin(list(data_sets))}, {}

    _generate_items = _fetch_items

    def _local_items(self) -> Slice:
        return {"files": hashes(self.paths.local_splits, self.paths.benchmarks)}, {}

    def _base_instructions(self) -> Slice:
        return self._world("finetuning"), {}

    def _recipe_instructions(self, recipe: str) -> Slice:
        """As `_base_instructions`, with the families that the recipe chooses."""
        config = self._world("finetuning")
        config["world"]["finetuning"]["weights"] = self.study.recipes[recipe].records
        return config, {}

    def _records(self, recipe: str) -> Fingerprint:
        if recipe in self.paths.own_records:
            return self.of("recipe_instructions", recipe)
        return self.of(self.instructions_stage)

    def _fetch_instructions(self) -> Slice:
        instructions = self.study.instructions
        assert instructions is not None
        return {"instructions": instructions.model_dump(), **self._origin([instructions.data])}, {}

    _generate_instructions = _fetch_instructions

    def _local_instructions(self) -> Slice:
        instructions = self.study.instructions
        assert instructions is not None
        manifest = f"{self.paths.instructions}/manifest.json"
        files = hashes(self.paths.local_instructions, manifest)
        return {"files": files, **instructions.model_dump(exclude={"data"})}, {}

    def _base_pretrain(self) -> Slice:
        return self._world("pretrain"), {}

    def _base_random(self) -> Slice:
        return {"study": self.study.study, "random": self.study.random.model_dump()}, {}

    def _base(self) -> Slice:
        study, paths = self.study, self.paths
        config: dict[str, Any] = {"base": paths.base_folder}
        if study.from_hub:
            config["revision"] = study.pins[study.base]
        if study.base == "shipped":
            config["manifest"] = sha256_file(self.root / paths.base_record)
        made_here = {"pretrain": "base_pretrain", "random": "base_random"}.get(study.base)
        return config, {paths.base_record: self.of(made_here)} if made_here else {}

    @cached_property
    def world_items(self) -> dict[str, Fingerprint]:
        """{manifest of the micro-world's items: its fingerprint}."""
        return {f"{self.paths.items}/manifest.json": self.of("base_items")}

    @cached_property
    def items(self) -> dict[str, Fingerprint]:
        """{manifest: its fingerprint} of all items that the study's tasks are scored on."""
        world = self.world_items if self.paths.world_tasks else {}
        brought = {self.paths.benchmarks: self.of(self.items_stage)} if self.paths.splits else {}
        return world | brought

    # ---- stages 1 to 5 --------------------------------------------------------------------------

    @cached_property
    def _scoring(self) -> dict[str, Any]:
        """What every scoring job sees; task files are hashed once."""
        return {
            "evaluation": self._evaluation(self.paths.choice_tasks, "metric", "data_folder"),
            "hardware": self.scoring_hardware.affecting_results(),
            "task_files": task_hashes(self.root / "config", self.paths.choice_tasks),
        }

    def _evaluation(self, tasks: list[str], *without: str) -> dict[str, Any]:
        """The `evaluation:` block as far as it is about `tasks`, without some of its keys."""
        found = self.study.evaluation.model_dump(exclude={*without}) | {"tasks": tasks}
        if isinstance(shots := found.get("num_fewshot"), dict):
            own = {task: number for task, number in shots.items() if task in tasks}
            found["num_fewshot"] = own
            if not own:
                del found["num_fewshot"]
        return found

    def _scored(self, stage: str, manifest: str, checkpoint: Fingerprint) -> Slice:
        masks = list(STAGES[stage].masks)
        return {**self._scoring, "masks": masks}, {manifest: checkpoint, **self.items}

    def _under(self, manifest: str, checkpoint: Fingerprint, condition: str) -> Slice:
        """One condition of a checkpoint with a job of its own: an intervention, or without it."""
        config: dict[str, Any] = {**self._scoring, "masks": [CAUSAL], "condition": CAUSAL}
        if condition != LIFTED:
            config |= self._taken(condition)
        return config, {manifest: checkpoint, **self.items}

    def _taken(self, name: str | None) -> dict[str, Any]:
        """What a job must know of an intervention."""
        return {"condition": name, "intervention": self.study.intervention(name)} if name else {}

    def _stage1_baseline(self) -> Slice:
        return self._scored("stage1_baseline", self.paths.base, self.of("base"))

    def _stage2_ablation(self) -> Slice:
        return self._scored("stage2_ablation", self.paths.base, self.of("base"))

    def _stage2_intervention(self, name: str) -> Slice:
        return self._under(self.paths.base, self.of("base"), name)

    def _stage3_finetune(self, recipe: str, seed: str) -> Slice:
        config = {
            "name": recipe,
            "recipe": self.study.recipe(recipe),
            "seed": int(seed),
            "hardware": self.study.hardware.affecting_results(),
            **self._taken(self.study.trained_under(recipe)),
        }
        records = f"{self.paths.records_of(recipe)}/manifest.json"
        upstream = {self.paths.base: self.of("base"), records: self._records(recipe)}
        return config, upstream

    _stage5_longrun = _stage3_finetune

    def _stage4_posteval(self, recipe: str, seed: str) -> Slice:
        checkpoint = self.of(stage_of(recipe), recipe, seed)
        return self._scored("stage4_posteval", self.paths.checkpoint(recipe, seed), checkpoint)

    _stage5_posteval = _stage4_posteval

    def _stage4_intervention(self, recipe: str, seed: str, condition: str) -> Slice:
        checkpoint = self.of(stage_of(recipe), recipe, seed)
        return self._under(self.paths.checkpoint(recipe, seed), checkpoint, condition)

    _stage5_intervention = _stage4_intervention

    def training_state(self, recipe: str, seed: str) -> str:
        """The folder in which a training keeps its checkpoints, so that it can be resumed.

        Another history has another folder. The micro-batch and the capacity of rows stay out: they
        are halved when memory is short, and an optimizer step is the same.
        """
        fingerprint = self.of(stage_of(recipe), recipe, seed)
        memory = ("config.recipe.micro_batch_examples", "config.recipe.row_tokens")
        digest = sha256_text(canonical_json(without_keys(fingerprint, "hash", *memory)))
        return f"state/{self.study.study}/{recipe}-{seed}-{digest[:12]}"

    def trained(
        self, seeds: list[int] | None = None, recipes: list[str] | None = None
    ) -> dict[str, Fingerprint]:
        """{manifest of a finetuned checkpoint: its fingerprint}."""
        found = {}
        for recipe in self.paths.recipes if recipes is None else recipes:
            for seed in seeds or self.study.seeds:
                manifest = self.paths.checkpoint(recipe, seed)
                found[manifest] = self.of(stage_of(recipe), recipe, seed)
        return found

    @cached_property
    def measured(self) -> dict[str, Fingerprint]:
        """{manifest: its fingerprint} of everything that the study scores."""
        paths = self.paths
        found = {f"{paths.baseline}/manifest.json": self.of("stage1_baseline")}
        found |= {paths.ablated(mask): self.of("stage2_ablation") for mask in ABLATED_MASKS}
        for name in self.study.interventions:
            found[paths.ablated(name)] = self.of("stage2_intervention", name)
        for recipe in paths.recipes:
            number = "stage5" if recipe in paths.long else "stage4"
            stage, own = f"{number}_posteval", f"{number}_intervention"
            for seed in self.study.seeds:
                for mask in STAGES[stage].masks if recipe in paths.under_masks else ():
                    found[paths.posteval(recipe, seed, mask)] = self.of(stage, recipe, seed)
                for condition in self.study.scored_under(recipe):
                    made = self.of(own, recipe, seed, condition)
                    found[paths.posteval(recipe, seed, condition)] = made
        return found

    # ---- metrics --------------------------------------------------------------------------------

    def _stage1_metrics(self) -> Slice:
        return {}, {f"{self.paths.baseline}/manifest.json": self.of("stage1_baseline")}

    def _stage2_metrics(self) -> Slice:
        return {}, {self.paths.ablated(mask): self.of("stage2_ablation") for mask in ABLATED_MASKS}

    def _stage4_metrics(self, recipe: str, seed: str) -> Slice:
        masks = STAGES["stage4_posteval"].masks
        scored = [self.paths.posteval(recipe, seed, mask) for mask in masks]
        return {}, {manifest: self.measured[manifest] for manifest in scored}

    _stage5_metrics = _stage4_metrics

    def _stage2_intervention_metrics(self, name: str) -> Slice:
        return {}, {self.paths.ablated(name): self.of("stage2_intervention", name)}

    def _stage4_intervention_metrics(self, recipe: str, seed: str, condition: str) -> Slice:
        scored = self.paths.posteval(recipe, seed, condition)
        return {}, {scored: self.measured[scored]}

    _stage5_intervention_metrics = _stage4_intervention_metrics

    # ---- tables ---------------------------------------------------------------------------------

    @cached_property
    def _rehearsal(self) -> dict[str, bool]:
        """What tables must say of a study whose numbers mean nothing."""
        return {"rehearsal": True} if self.study.rehearsal else {}

    def _bag_of_words(self) -> Slice:
        return self._world("items"), self.world_items

    def _recovery(self) -> Slice:
        study = self.study
        config = {
            "study": study.study,
            "metric": study.evaluation.metric,
            "statistics": study.statistics.model_dump(),
            "criteria": study.criteria.model_dump(),
            "controls": study.controls,
            **self._rehearsal,
        }
        return config, self.measured

    def _published(self) -> Slice:
        named = {"metric": self.study.evaluation.metric, "model": self.paths.base_folder}
        config = {
            "named": named | self._rehearsal,
            "criteria": self.study.criteria.model_dump(),
            "trainings": {r: training_settings(self.study, r) for r in self.paths.recipes},
        }
        return config, {self.paths.manifest_of("recovery"): self.of("recovery")}

    def _flips(self) -> Slice:
        return {"study": self.study.study, "metric": self.study.evaluation.metric}, self.measured

    def _curves(self) -> Slice:
        return {"study": self.study.study}, self.trained()

    def _mask_cells(self) -> Slice:
        # Two choices over one prompt, short enough to read.
        config = {"task": "micro_piqa", "item": 0}
        return config, {self.paths.base: self.of("base"), **self.world_items}

    # ---- the report -----------------------------------------------------------------------------

    def _figures(self, figure: str) -> Slice:
        tables = self.paths.figures[figure]
        confidence = {"confidence": self.study.statistics.confidence}
        has_intervals = any(FIRST.tables[table].intervals for table in tables)
        config = {"figure": figure, "options": confidence if has_intervals else {}}
        return config, self.behind(tables)

    def _samples(self) -> Slice:
        study, seed = self.study, self.study.seeds[0]
        config = {
            "samples": {**study.samples.model_dump(), "masks": list(SAMPLED_MASKS)},
            "seed": seed,
            "hardware": self.scoring_hardware.affecting_results(),
        }
        shown = self.paths.under_masks  # the others have no score under a mask beside the text
        prompts = {} if study.samples.prompts else self.world_items
        return config, {self.paths.base: self.of("base"), **prompts, **self.trained([seed], shown)}

    def _pages(self) -> Slice:
        pages = self.paths.pages
        return {"pages": {name: [table] for name, table in pages.items()}}, self.behind(
            tuple(pages.values())
        )

    @cached_property
    def recorded(self) -> list[str]:
        """The manifests whose run records the report shows: of every stage and table."""
        tables = self.behind((*self.paths.pages.values(), "mask_cells"))
        return sorted([self.paths.base, *self.measured, *self.trained(), *tables])
