"""Where the results of the first study stand, and which files its jobs read. Pure but for globs."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from ablation.config.study import Study
from ablation.data import local_files
from ablation.data.generation.rows import ROWS, TEXTS
from ablation.data.needles import tokens_and_position
from ablation.data.task_data import Parts, data_sets
from ablation.data.task_files import data_files, generation_tasks
from ablation.provenance.files import visible_files
from ablation.vocabulary.catalogue import FIRST
from ablation.vocabulary.generation import (
    ABLATED_GENERATION_MASKS,
    GENERATION_MASKS,
    WORLD_GENERATION_TASKS,
)
from ablation.vocabulary.interventions import LIFTED
from ablation.vocabulary.masks import ABLATED_MASKS, MASKS
from ablation.vocabulary.micro_tasks import TASKS as WORLD_TASKS
from ablation.vocabulary.recipes import LONG_STAGE, stage_of
from ablation.workflow.base import TablePaths

METRICS_FILES = ("metrics.json", "metrics.manifest.json", "metrics.run.json")
SCORED_FILES = ("evaluation.json", "samples.parquet", "manifest.json", "run.json")


class Paths(TablePaths):
    """Paths of one study, relative to the root of the repository."""

    def __init__(self, study: Study, root: Path, in_storage: bool = False) -> None:
        """`in_storage`: results are in a storage of Snakemake, and jobs on other machines."""
        self.study, self.root, self.in_storage = study, root, in_storage
        self.results, self.logs = f"results/{study.study}", f"logs/{study.study}"
        self.base = f"{self.results}/base/manifest.json"
        self.items = f"{self.results}/base/items"
        self.benchmarks = f"{self.items}/benchmarks.manifest.json"
        self.instructions = f"{self.results}/base/instructions"
        self.own_records = [name for name, r in study.recipes.items() if r.records is not None]
        self.pretrained = f"{self.results}/base/pretrained"
        self.random = f"{self.results}/base/random"
        self.baseline = f"{self.results}/stage1_baseline"
        self.ablation = f"{self.results}/stage2_ablation"
        self.recipes = list(study.recipes)
        self.long = [name for name in self.recipes if stage_of(name) == LONG_STAGE]
        self.short = [name for name in self.recipes if name not in self.long]
        self.under_masks = [name for name in self.recipes if not study.trained_under(name)]
        tasks = study.evaluation.tasks
        self.world_tasks = [task for task in tasks if task in WORLD_TASKS]
        self.generation_tasks = generation_tasks(root / "config", tasks)
        self.choice_tasks = [task for task in tasks if task not in self.generation_tasks]
        self.generation_items = f"{self.results}/base/generation_items"
        self.generation_benchmarks = f"{self.generation_items}/manifest.json"

    # ---- the base -------------------------------------------------------------------------------

    @cached_property
    def own_base(self) -> str | None:
        """The folder of a base that this project made; None for a checkpoint of somebody else."""
        made = {"shipped": "resources/micro", "pretrain": self.pretrained, "random": self.random}
        return made.get(self.study.base)

    @cached_property
    def base_folder(self) -> str:
        """Where the base model's files stand; of a hub model, its name there."""
        return f"{self.own_base}/base" if self.own_base else self.study.base

    @cached_property
    def base_record(self) -> str:
        """The small file that says what a base is; empty for a hub model."""
        if self.study.from_hub:
            return ""
        return (
            f"{self.own_base}/manifest.json" if self.own_base else f"{self.study.base}/config.json"
        )

    @property
    def base_made_here(self) -> bool:
        """Whether a job of the study makes the base."""
        return self.study.base in ("pretrain", "random")

    @cached_property
    def base_files(self) -> list[str]:
        """All files of a checkpoint of somebody else; our manifests name those of ours."""
        if self.own_base or self.study.from_hub:
            return []
        return [path.as_posix() for path in visible_files(self.study.base)]

    @cached_property
    def base_weights(self) -> list[str]:
        """The base's files; the machine that needs a hub model fetches it.

        What comes with the workflow or is the user's is in no storage: machines have it themselves,
        and jobs verify it by its manifest.
        """
        if self.study.from_hub or (self.in_storage and not self.base_made_here):
            return []
        return [self.base_folder] if self.own_base else self.base_files

    # ---- items ----------------------------------------------------------------------------------

    @cached_property
    def every_world_item(self) -> list[str]:
        """The items of all tasks of the micro-world."""
        return [f"{self.items}/{task}.jsonl" for task in WORLD_TASKS]

    @cached_property
    def world_items(self) -> list[str]:
        """The same where the study is scored on any of them, else nothing."""
        return self.every_world_item if self.world_tasks else []

    @cached_property
    def splits(self) -> Parts:
        """{data set: the (configuration, split) pairs that tasks of multiple choice read}."""
        return self._splits_of(self.choice_tasks)

    @cached_property
    def generation_splits(self) -> Parts:
        """The same of generation tasks, whose data sets have a folder and a manifest of their own.

        So a study that gets such a task scores no choice again.
        """
        return self._splits_of(self.generation_tasks)

    def _splits_of(self, tasks: list[str]) -> Parts:
        return data_sets(self.root / "config", tasks, self.study.evaluation.num_fewshot)

    @cached_property
    def local_splits(self) -> local_files.Files:
        """The files of `splits`, where they lie in a folder of the user."""
        folder = self.study.evaluation.data_folder
        return local_files.splits(folder, self.splits) if folder else {}

    @cached_property
    def local_generation_splits(self) -> local_files.Files:
        """The files of `generation_splits`, where they lie in a folder of the user."""
        folder = self.study.evaluation.data_folder
        return local_files.splits(folder, self.generation_splits) if folder else {}

    @cached_property
    def data_sets(self) -> list[str]:
        """Folders of data sets, and the data that task files of the user name as theirs."""
        own = [] if self.in_storage else data_files(self.root / "config", self.choice_tasks)
        return [*own, *(f"{self.items}/{data}" for data in self.splits)]

    @cached_property
    def generation_data(self) -> list[str]:
        """The files and folders that generation tasks read."""
        own = [] if self.in_storage else data_files(self.root / "config", self.generation_tasks)
        world = self.every_world_item if self.asks_of_the_world else []
        return [
            *own,
            *world,
            *(f"{self.generation_items}/{data}" for data in self.generation_splits),
        ]

    @property
    def asks_of_the_world(self) -> bool:
        """Whether the prompts of a generation task are items of the micro-world."""
        return any(task in WORLD_GENERATION_TASKS for task in self.generation_tasks)

    @cached_property
    def local_instructions(self) -> local_files.Files:
        """The files here that the finetuning records are read from."""
        data = self.study.local_instructions
        return local_files.training_split(data) if data and Path(data).exists() else {}

    def records_of(self, recipe: str) -> str:
        """The folder of the records that a recipe is trained on."""
        if recipe in self.own_records:
            return f"{self.instructions}_of/{recipe}"
        return self.instructions

    # ---- finetuned and scored -------------------------------------------------------------------

    def trained(self, recipe: str, seed: object) -> str:
        """The folder of a finetuning."""
        return f"{self.results}/{stage_of(recipe)}/{recipe}/seed{seed}"

    def checkpoint(self, recipe: str, seed: object) -> str:
        """The manifest of a finetuned checkpoint."""
        return f"{self.trained(recipe, seed)}/manifest.json"

    def evaluated(self, recipe: str, seed: object) -> str:
        """The folder of a checkpoint's scores, with one folder a condition."""
        if recipe in self.long:
            return self.trained(recipe, seed)
        return f"{self.results}/stage4_posteval/{recipe}/seed{seed}"

    def posteval(self, recipe: str, seed: object, mask: str) -> str:
        """The manifest of a finetuned checkpoint's scores under a mask or another condition."""
        return f"{self.evaluated(recipe, seed)}/{mask}/manifest.json"

    def ablated(self, mask: str) -> str:
        """The manifest of the base's scores under an ablated mask or an intervention."""
        return f"{self.ablation}/{mask}/manifest.json"

    def scored(self, folder: str, masks: tuple[str, ...] = ()) -> list[str]:
        """The files of one scoring job: in `folder`, or in one folder a mask below it."""
        homes = [f"{folder}/{mask}" for mask in masks] or [folder]
        return [f"{home}/{name}" for home in homes for name in SCORED_FILES]

    @property
    def scored_homes(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """{stages: the folder of their scores below the study's, and the masks below it}."""
        return {
            "stage1": ("stage1_baseline", ()),
            "stage2": ("stage2_ablation", ABLATED_MASKS),
            "stage4": ("stage4_posteval/{recipe}/seed{seed}", MASKS),
            "stage5": ("stage5_longrun/{recipe}/seed{seed}", MASKS),
        }

    def scored_rows(self, folder: str, masks: tuple[str, ...] = ()) -> list[str]:
        """The files of one scoring job that metrics are computed from."""
        return [file for file in self.scored(folder, masks) if not file.endswith("run.json")]

    def metrics(self, folder: str, masks: tuple[str, ...] = ()) -> list[str]:
        """The files of one metrics job: beside the sample rows of each mask."""
        homes = [f"{folder}/{mask}" for mask in masks] or [folder]
        return [f"{home}/{name}" for home in homes for name in METRICS_FILES]

    @cached_property
    def every_metrics(self) -> list[str]:
        """The files of all metrics jobs of the study."""
        return self.metrics(self.baseline) + self.metrics_of_base + self.metrics_of(self.recipes)

    @cached_property
    def metrics_of_base(self) -> list[str]:
        """The files of the metrics jobs of the base with something taken away."""
        return self.metrics(self.ablation, (*ABLATED_MASKS, *self.study.interventions))

    def conditions(self, recipe: str) -> tuple[str, ...]:
        """All conditions under which a recipe's checkpoints are scored."""
        masks = MASKS if recipe in self.under_masks else ()
        return (*masks, *self.study.scored_under(recipe))

    def metrics_of(self, recipes: list[str]) -> list[str]:
        """The files of the metrics jobs of these recipes, for every seed."""
        return [
            file
            for recipe in recipes
            for seed in self.study.seeds
            for file in self.metrics(self.evaluated(recipe, seed), self.conditions(recipe))
        ]

    # ---- generated ------------------------------------------------------------------------------

    def generated(self, home: str) -> str:
        """The manifest of the texts that were generated under the condition of a folder."""
        return f"{home}/generated/manifest.json"

    def generation_files(self, home: str) -> list[str]:
        """The results of one generation job, beside its manifest and run record."""
        return [f"{home}/generated/{name}" for name in ("evaluation.json", ROWS, TEXTS)]

    @property
    def generation_conditions(self) -> list[str]:
        """Every condition that some model of the study generates texts under."""
        return [*GENERATION_MASKS, *self.study.interventions, LIFTED]

    @property
    def generated_under_causal(self) -> list[str]:
        """The manifests of the base's texts with nothing taken away."""
        return [self.generated(self.baseline)] if self.generation_tasks else []

    @cached_property
    def generated_of_base(self) -> list[str]:
        """The manifests of the base's texts with something taken away."""
        names = (*ABLATED_GENERATION_MASKS, *self.study.interventions)
        found = [self.generated(f"{self.ablation}/{name}") for name in names]
        return found if self.generation_tasks else []

    def generates_under(self, recipe: str) -> list[str]:
        """All conditions under which a recipe's checkpoints generate texts."""
        wanted = self.conditions(recipe) if self.generation_tasks else ()
        return [name for name in wanted if name in self.generation_conditions]

    def generated_of(self, recipes: list[str]) -> list[str]:
        """The manifests of the texts of these recipes, for every seed."""
        return [
            self.generated(f"{self.evaluated(recipe, seed)}/{condition}")
            for recipe in recipes
            for seed in self.study.seeds
            for condition in self.generates_under(recipe)
        ]

    # ---- tables, figures, pages -----------------------------------------------------------------

    def has_table(self, table: str) -> bool:
        """Whether the study has the inputs of a table."""
        if table == "bag_of_words":
            return bool(self.world_tasks)
        if table == "samples":
            return bool(self.world_tasks or self.study.samples.prompts)
        return table in FIRST.tables

    @cached_property
    def figures(self) -> dict[str, tuple[str, ...]]:
        """{figure: its tables}, of those tables that the study has."""
        drawn = dict(FIRST.figures)
        if not self.study.interventions:
            del drawn["interventions"]
        if not any(map(tokens_and_position, self.study.evaluation.tasks)):
            del drawn["lengths"]
        return {n: tuple(filter(self.has_table, figure.tables)) for n, figure in drawn.items()}

    @cached_property
    def pages(self) -> dict[str, str]:
        """{page of the report: the table that it shows}."""
        shown = {name: page.tables[0] for name, page in FIRST.pages.items() if page.tables}
        return {name: table for name, table in shown.items() if self.has_table(table)}
