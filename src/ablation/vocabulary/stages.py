"""The stages of both studies: one table with the script, packages and rule of each.

A stage is a kind of job. Fingerprints, folders, logs and messages name stages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ablation.vocabulary.generation import ABLATED_GENERATION_MASKS, GENERATION_MASKS
from ablation.vocabulary.masks import ABLATED_MASKS, CAUSAL, MASKS

Kind = Literal["data", "model", "training", "scoring", "generation", "table", "figure", "bridge"]

# Packages whose versions can change the results of a stage. They are part of its fingerprint.
MODEL = ("numpy", "safetensors", "tokenizers", "torch", "transformers")
SCORING = (*MODEL, "datasets", "lm_eval", "pandas", "pyarrow")
TRAINING = (*MODEL, "accelerate")
TABLES = ("numpy", "pandas", "scipy")
SAMPLE_ROWS = (*TABLES, "pyarrow")
METRICS_PACKAGES = ("numpy", "pandas", "pyarrow")
FIGURES = ("altair", "pandas", "vl-convert-python")


@dataclass(frozen=True)
class Stage:
    """One kind of job.

    group: the name for several stages in `ablation reproduce` and in the targets of Snakemake.
    kind: what the stage makes. `training`, `scoring` and `generation` run the model of the first
        study, `bridge` runs the models of the second; `ablation plan` counts the hours of the first
        two.
    script: the script of the job is workflow/scripts/<script>.py.
    packages: the packages whose versions can change the results.
    rule: the rule that runs the stage, by default the rule of its name; `{figure}` is replaced by
        the figure in the fingerprint's configuration.
    masks: the masks under which a scoring job scores.
    """

    name: str
    group: str
    kind: Kind
    script: str
    packages: tuple[str, ...] = ()
    rule: str = ""
    masks: tuple[str, ...] = ()

    def rule_of(self, config: dict) -> str:
        """The rule that makes a result whose fingerprint holds `config`."""
        return (self.rule or self.name).format(figure=config.get("figure", ""))


_TABLE = [
    Stage("base", "base", "data", "base", MODEL),
    Stage("base_items", "base", "data", "items"),
    Stage("fetch_items", "base", "data", "fetch_items", rule="base_benchmarks"),
    Stage("generate_items", "base", "data", "generate_items", rule="base_benchmarks"),
    Stage("local_items", "base", "data", "local_items", rule="base_benchmarks"),
    Stage("base_instructions", "base", "data", "instructions"),
    Stage("recipe_instructions", "base", "data", "instructions"),
    Stage("fetch_instructions", "base", "data", "fetch_instructions", rule="base_instructions"),
    Stage(
        "generate_instructions", "base", "data", "generate_instructions", rule="base_instructions"
    ),
    Stage("local_instructions", "base", "data", "local_instructions", rule="base_instructions"),
    Stage("base_pretrain", "base", "model", "pretrain", MODEL),
    Stage("base_random", "base", "model", "base_random", MODEL),
    Stage("stage1_baseline", "stage1", "scoring", "evaluate", SCORING, masks=(CAUSAL,)),
    Stage("stage2_ablation", "stage2", "scoring", "evaluate", SCORING, masks=ABLATED_MASKS),
    Stage("stage2_intervention", "stage2", "scoring", "evaluate", SCORING, masks=(CAUSAL,)),
    Stage("stage3_finetune", "stage3", "training", "finetune", TRAINING),
    Stage("stage4_posteval", "stage4", "scoring", "evaluate", SCORING, masks=MASKS),
    Stage("stage4_intervention", "stage4", "scoring", "evaluate", SCORING, masks=(CAUSAL,)),
    Stage("stage5_longrun", "stage5", "training", "finetune", TRAINING),
    Stage("stage5_posteval", "stage5", "scoring", "evaluate", SCORING, masks=MASKS),
    Stage("stage5_intervention", "stage5", "scoring", "evaluate", SCORING, masks=(CAUSAL,)),
    Stage(
        "fetch_generation_items", "base", "data", "fetch_items", rule="base_generation_benchmarks"
    ),
    Stage(
        "local_generation_items", "base", "data", "local_items", rule="base_generation_benchmarks"
    ),
    Stage("stage1_generation", "stage1", "generation", "generate", SCORING, masks=(CAUSAL,)),
    Stage(
        "stage2_generation",
        *("stage2", "generation", "generate", SCORING),
        masks=ABLATED_GENERATION_MASKS,
    ),
    Stage("stage4_generation", "stage4", "generation", "generate", SCORING, masks=GENERATION_MASKS),
    Stage("stage5_generation", "stage5", "generation", "generate", SCORING, masks=GENERATION_MASKS),
    Stage("stage1_metrics", "stage1", "table", "metrics", METRICS_PACKAGES),
    Stage("stage2_metrics", "stage2", "table", "metrics", METRICS_PACKAGES),
    Stage("stage4_metrics", "stage4", "table", "metrics", METRICS_PACKAGES),
    Stage("stage5_metrics", "stage5", "table", "metrics", METRICS_PACKAGES),
    Stage("stage2_intervention_metrics", "stage2", "table", "metrics", METRICS_PACKAGES),
    Stage("stage4_intervention_metrics", "stage4", "table", "metrics", METRICS_PACKAGES),
    Stage("stage5_intervention_metrics", "stage5", "table", "metrics", METRICS_PACKAGES),
    Stage("recovery", "recovery", "table", "recovery", SAMPLE_ROWS),
    Stage("bag_of_words", "recovery", "table", "bag_of_words", TABLES),
    Stage("published", "recovery", "table", "published", TABLES),
    Stage("flips", "figures", "table", "flips", SAMPLE_ROWS),
    Stage("curves", "figures", "table", "curves", ("pandas",)),
    Stage("mask_cells", "figures", "table", "mask_cells", (*MODEL, "pandas")),
    Stage("figures", "figures", "figure", "figures", FIGURES, rule="figure_{figure}"),
    Stage("samples", "report", "table", "samples", SCORING),
    Stage("pages", "report", "figure", "pages", ("pandas",)),
    Stage("bridge_questions", "bridge", "data", "bridge_questions"),
    Stage("bridge_random", "bridge", "model", "bridge_random", MODEL),
    Stage("bridge_pretrain", "bridge", "bridge", "bridge_pretrain", MODEL),
    Stage("bridge_source", "bridge", "data", "base"),
    Stage("bridge_target", "bridge", "data", "base"),
    Stage("bridge_states", "bridge", "bridge", "bridge_states", (*MODEL, "pandas", "pyarrow")),
    Stage("bridge_cells", "bridge", "bridge", "bridge_cells", (*TRAINING, "pandas", "pyarrow")),
    Stage("bridge_inference", "bridge", "bridge", "bridge_inference", MODEL),
    Stage("bridge_tables", "bridge", "table", "bridge_tables", SAMPLE_ROWS),
    Stage("bridge_published", "bridge", "table", "bridge_published", TABLES),
    Stage("bridge_figures", "bridge", "figure", "figures", FIGURES, rule="bridge_figures"),
    Stage("bridge_pages", "bridge", "figure", "pages", ("pandas",)),
]
STAGES = {stage.name: stage for stage in _TABLE}
GROUPS = tuple(dict.fromkeys(stage.group for stage in _TABLE))


def stage_names(*kinds: Kind) -> tuple[str, ...]:
    """The names of all stages of these kinds, in the order of the study."""
    return tuple(stage.name for stage in _TABLE if stage.kind in kinds)


def stages_of(group: str) -> tuple[str, ...]:
    """The names of the stages of a group, in the order of the study."""
    return tuple(stage.name for stage in _TABLE if stage.group == group)


def script_of(stage: str) -> str:
    """The path of a stage's script, relative to the root of the repository."""
    return f"workflow/scripts/{STAGES[stage].script}.py"


def groups_in(stages: Iterable[str]) -> list[str]:
    """The groups that contain at least one of these stages, in the order of the study."""
    present = {STAGES[name].group for name in stages if name in STAGES}
    return [group for group in GROUPS if group in present]
