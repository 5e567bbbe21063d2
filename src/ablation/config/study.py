"""A study's configuration: every key with its type, its limits and its meaning.

The meanings are written only here: `make config` generates config/README.md, config/schema.json and
the comments of config/default.yaml from them. A rule between two keys is checked at the later one,
so that it is reported whatever else is wrong. This module does not import torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from ablation.config.bridge import Bridge
from ablation.config.fields import (
    TRACKERS,
    Country,
    OneOf,
    Seed,
    Strict,
    Trackers,
    described_field,
    is_null,
    is_off,
    without_repeats,
)
from ablation.config.interventions import AnyIntervention, InterventionName
from ablation.config.recipes import (
    Criteria,
    Evaluation,
    Instructions,
    Leak,
    Recipe,
    Samples,
    Statistics,
    StopRules,
    Training,
)
from ablation.config.world import MicroWorld, RandomBase
from ablation.data.local_files import is_local
from ablation.vocabulary.instructions import INSTRUCTIONS
from ablation.vocabulary.interventions import LIFTED
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.recipes import NAME, RECIPES

__all__ = [
    "ComputeSettings",
    "Evaluation",
    "Leak",
    "RandomBase",
    "Recipe",
    "StopRules",
    "Study",
    "Training",
]

REPOSITORY = r"^[\w.-]+/[\w.-]+$"  # owner/name on the hub

# No result depends on requests to a scheduler or market, nor on how many machines and cards share a
# job: a change makes nothing stale.
MACHINE_REQUESTS = ("gpu_model", "gpu_mem_mb", "mem_mb", "disk_mb", "runtime")
SHARED_BY = ("nodes", "scoring_gpus")


class ComputeSettings(Strict):
    """The part of the `hardware:` block on which results may depend; fingerprints hold it."""

    gpu: int = described_field(
        "Number of GPUs of a finetuning, which share its weights and examples; scoring uses "
        "`scoring_gpus`. 0 runs on the CPU.",
        ge=0,
    )
    threads: int = described_field(
        "Number of torch threads of a job. The last bits of results may depend on it, so it is "
        "part of the study.",
        ge=1,
    )
    instructions: Annotated[str, OneOf(INSTRUCTIONS)] | None = described_field(
        "Instructions that jobs on a CPU may use. With `avx2` trainings and scores have the same "
        "bytes on every x86-64 processor that has it; null takes all that the processor has, "
        "which is faster.",
        default=None,
    )
    dtype: Literal["float32", "bfloat16"] = described_field(
        "Numeric type of weights and activations."
    )
    attention: Literal["sdpa", "eager", "flex_attention"] = described_field(
        "Implementation of attention."
    )

    compile: bool = described_field(
        "Whether decoder layers are compiled: a job takes a minute or two longer to start, and is "
        "then faster on a GPU."
    )
    keep_gathered: bool = described_field(
        "Whether each of the GPUs that share weights keeps those of the others, and whole sums of "
        "gradients, until an optimizer step ends. This takes 6 bytes a weight more on each, and "
        "they communicate once a step instead of in every forward and backward.",
        default=False,
        exclude_if=is_off,
    )
    device: Literal["mps"] | None = described_field(
        "Kind of the GPU: `mps` is that of a Mac, null one of NVIDIA's or AMD's.",
        default=None,
        exclude_if=is_null,
    )

    @property
    def torch_device(self) -> str:
        """The torch device of a job: `cpu` without a GPU, otherwise `cuda` or `mps`."""
        return (self.device or "cuda") if self.gpu else "cpu"


class Hardware(ComputeSettings):
    """The `hardware:` block: how a job computes, and what it requests from a scheduler."""

    nodes: int = described_field(
        "Number of machines on which the GPUs of a finetuning are, as many on each; all of them "
        "must see this folder (docs/slurm.md).",
        ge=1,
    )
    scoring_gpus: int = described_field(
        "Number of GPUs of one machine that share the items of a scoring job. Its results are the "
        "same.",
        ge=1,
    )
    gpu_model: str | None = described_field(
        "Name of the GPU model, as the profile's scheduler or market has it; null takes any GPU "
        "with `gpu_mem_mb`.",
        pattern=r"^[A-Za-z0-9_.]+$",
    )
    gpu_mem_mb: int = described_field(
        "Least memory of each GPU in MB; only for rented machines.", ge=0
    )
    mem_mb: int = described_field("Least memory of the machine in MB.", ge=1)
    disk_mb: int = described_field(
        "Disk of a rented machine in MB, for the base, checkpoints and cached data.", ge=1
    )
    runtime: int = described_field(
        "Longest running time of a job in minutes; a training that is ended by it resumes from its "
        "last checkpoint at the next attempt.",
        ge=1,
    )

    @field_validator("nodes")
    @classmethod
    def _has_gpus_for_all(cls, nodes: int, info: ValidationInfo) -> int:
        gpus = info.data.get("gpu")
        if gpus is not None and nodes > 1 and (gpus == 0 or gpus % nodes):
            text = f"{gpus} GPUs (hardware.gpu, of all machines together) cannot be spread evenly"
            raise ValueError(f"{text} over {nodes} machines: give a multiple of {nodes}")
        return nodes

    @field_validator("keep_gathered")
    @classmethod
    def _needs_several_gpus(cls, keeps: bool, info: ValidationInfo) -> bool:
        gpus = info.data.get("gpu")
        if keeps and gpus is not None and gpus < 2:
            raise ValueError(f"found with {gpus} GPU(s) (hardware.gpu), which share no weights")
        return keeps

    @field_validator("scoring_gpus")
    @classmethod
    def _needs_gpus(cls, scoring: int, info: ValidationInfo) -> int:
        if scoring > 1 and info.data.get("gpu") == 0:
            raise ValueError("the study runs on the CPU: request a GPU (hardware.gpu), or give 1")
        return scoring

    def affecting_results(self) -> dict:
        """The keys that a result may depend on, without requests to a market."""
        others = {"instructions"} if self.gpu else set()
        return self.model_dump(exclude={*MACHINE_REQUESTS, *SHARED_BY, *others})

    def of_scoring(self) -> Hardware:
        """That of a scoring job on one card."""
        alone = {"gpu": min(self.gpu, 1), "nodes": 1, "keep_gathered": False}
        return self.model_copy(update=alone)

    def resources(self) -> dict[str, int | str]:
        """Snakemake's resources of a job that runs a model, without those that are null.

        Those for several machines are an MPI job's: the SLURM executor starts any other as one task
        on one machine. The job itself starts its ranks on the others.
        """
        resources = self.model_dump(include={"gpu", *MACHINE_REQUESTS}, exclude_none=True)
        without = () if self.gpu else ("gpu_model", "gpu_mem_mb")
        resources = {k: v for k, v in resources.items() if k not in without}
        if self.nodes > 1:
            resources |= {"nodes": self.nodes, "tasks": self.nodes, "tasks_per_gpu": 0}
            each = self.gpu // self.nodes  # by `gpu`, the sum, SLURM may give any number on each
            resources |= {"mpi": "srun", "slurm_extra": f"--gpus-per-node={each}"}
        return resources

    def scoring_resources(self) -> dict[str, int | str]:
        """As `resources`, of a scoring job."""
        return self.of_scoring().resources() | {"gpu": self.scoring_gpus if self.gpu else 0}


class Study(Strict):
    """One study. Every key has a value in config/default.yaml; other files hold the differences."""

    study: str = described_field(
        "Name of the study, of results/<study> and of logs/<study>. Two studies can run side by "
        "side.",
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
    )
    base: str = described_field(
        "The base model. `shipped` is resources/micro; `pretrain` makes it here from nothing; "
        "`random` has random weights, for a rehearsal. Otherwise, the folder of a checkpoint, or a "
        "hub model (owner/name) that is named in `pins`.",
        min_length=1,
    )
    pins: dict[Annotated[str, Field(pattern=REPOSITORY)], str | None] = described_field(
        "The commit of each hub repository, of models and of data sets. A value may be null or a "
        "branch until `ablation pin` has fetched the commit."
    )
    instructions: Instructions | None = described_field(
        "Instruction data for finetuning; null takes the records of the micro-world."
    )
    seeds: list[Seed] = described_field(
        "Seeds of finetuning; each recipe is trained once with each. A seed fixes data order and "
        "held-out split, and nothing else.",
        min_length=1,
    )
    interventions: dict[InterventionName, AnyIntervention] = described_field(
        "What is taken away from models beside the masks, by name; docs/interventions.md has the "
        "kinds and their keys. The base is scored under each."
    )
    keep_states: bool = described_field(
        "Whether the files that a training resumes from are kept after it has succeeded."
    )
    keep_weights: bool = described_field(
        "Whether `ablation push` also sends the weights of checkpoints. Tables and figures need "
        "none; without weights, a new evaluation needs a new training."
    )
    carbon_region: Country | None = described_field(
        "The country whose electricity the machines used, by its ISO 3166-1 code of three letters "
        "such as DEU, for CO2 beside the energy in the report; null shows none. It changes no "
        "result."
    )
    tracking: Trackers = described_field(
        f"Where trainings are shown while they run: {', '.join(TRACKERS)} (docs/tracking.md). No "
        "result depends on it."
    )
    hardware: Hardware = described_field("What a job that runs a model needs.")
    finetune: Training = described_field("Training keys that all recipes share.")
    recipes: dict[Annotated[str, Field(pattern=NAME)], Recipe] = described_field(
        f"The finetunings, named {', '.join(RECIPES)}. Those of stage 3 differ in the mask in use "
        "while training; those of stage 5 train longer with the objective of 3B. A sweep adds "
        "variants such as `3B-lr1e-4`, which take over the keys of the recipe that they are named "
        "after.",
        min_length=1,
    )
    evaluation: Evaluation = described_field("What every checkpoint is scored on, under each mask.")
    statistics: Statistics = described_field("Statistics of all tables.")
    criteria: Criteria = described_field(
        "The published criteria: a recipe recovers when it meets both."
    )
    samples: Samples = described_field(
        "Continuations by the base and by every recipe, shown in the report."
    )
    world: MicroWorld = described_field(
        "The micro-world, from which items, finetuning data and, with `base: pretrain`, the base "
        "are made."
    )
    random: RandomBase = described_field(
        "Only with `base: random`: a Ministral-3 decoder with random weights, and generated texts "
        "in place of hub data sets. Times and memory are real; accuracies mean nothing."
    )
    bridge: Bridge | None = described_field(
        "The second study (docs/bridge.md); null runs the first alone."
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        return without_repeats(seeds, "seed")

    def recipe(self, name: str) -> dict:
        """A recipe as a plain mapping, with every key, as fingerprints hold it."""
        return self.recipes[name].model_dump(exclude={"score_under"})

    def intervention(self, name: str) -> dict:
        """An intervention as a plain mapping, as fingerprints and manifests hold it."""
        return self.interventions[name].model_dump()

    def trained_under(self, recipe: str) -> str | None:
        """The intervention under which a recipe trains; None under a mask alone."""
        return self.recipes[recipe].train_under

    def scored_under(self, recipe: str) -> list[str]:
        """The conditions of a recipe's checkpoints that have a scoring job of their own.

        These are names of interventions, and LIFTED, the score without what was taken away in
        training. A recipe that trains under a mask alone is scored under every mask besides.
        """
        if not self.interventions:  # `controls` would be computed for each recipe of a sweep
            return []
        own = self.trained_under(recipe)
        if own is not None:
            return [*([LIFTED] if self.interventions[own].liftable else []), own]
        asked = [*(self.recipes[recipe].score_under or ())]
        controls = {c for r, c in self.controls.items() if self.trained_under(r) is not None}
        return [name for name in self.interventions if recipe in controls or name in asked]

    @property
    def controls(self) -> dict[str, str]:
        """{recipe: its control}: trained whole under `causal`, and otherwise as the recipe.

        Rules that end a training early may differ. Whether records and steps were equal in fact is
        checked where scores are compared.
        """

        own = {"train_mask", "train_under", "score_under", "stops"}
        training = {name: recipe.model_dump(exclude=own) for name, recipe in self.recipes.items()}
        causal = [
            name
            for name, recipe in self.recipes.items()
            if recipe.train_mask == CAUSAL and recipe.train_under is None
        ]
        ablated = [name for name in self.recipes if name not in causal]
        equal = {name: [c for c in causal if training[c] == training[name]] for name in ablated}
        return {name: found[0] for name, found in equal.items() if found}

    @property
    def pretrained_here(self) -> bool:
        """Whether the study pretrains its base itself."""
        return self.base == "pretrain"

    @property
    def from_hub(self) -> bool:
        """Whether the base is a hub model, which means that `pins` names it."""
        return self.base in self.pins

    @property
    def local_instructions(self) -> str | None:
        """The file or folder here that the instruction data are read from, if they are."""
        data = self.instructions.data if self.instructions else None
        return data if data and is_local(data, self.pins) else None

    @property
    def rehearsal(self) -> bool:
        """Whether weights and texts are random, so that accuracies mean nothing."""
        return self.base == "random"
