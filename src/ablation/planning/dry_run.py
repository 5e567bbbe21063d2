"""Finds stale jobs by a dry run of Snakemake in another process, and plans their time and cost."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from ablation.config.load import load_study
from ablation.config.merging import merge, read_config_file, shipped_config
from ablation.config.study import Study
from ablation.data.task_files import generation_tasks
from ablation.lineage.snakemake_environment import snakemake_environment
from ablation.planning.estimate import (
    NOT_COUNTED,
    Offer,
    Overheads,
    Plan,
    Rates,
    Work,
    plan,
    scoring_work,
    training_work,
)
from ablation.planning.prices import (
    BENCHMARK,
    BILLIONS,
    SEVERAL,
    Market,
    billions_of,
    measured_rates,
    shipped,
    with_measured,
)
from ablation.vocabulary.stages import STAGES, stage_names

CHECKPOINT = re.compile(r"/([^/]+)/seed(\d+)/")  # recipe and seed in a path of results
PENDING = "update pending"  # the plan of a stale job in `snakemake --summary`


class DryRunFailed(RuntimeError):
    """Snakemake could not list the stale jobs; the message has its output."""


@dataclass(frozen=True, order=True)
class Job:
    """A job of Snakemake; `recipe` is empty and `seed` -1 for jobs without a checkpoint.

    condition: what is taken away from the checkpoint, if a job of its own scores it under that.
    """

    rule: str
    recipe: str = ""
    seed: int = -1
    condition: str = ""

    @property
    def name(self) -> str:
        """The name of the job in a plan."""
        of_checkpoint = f" {self.recipe} seed {self.seed}" if self.recipe else ""
        return f"{self.rule}{of_checkpoint} {self.condition}".rstrip()

    @property
    def chain(self) -> str:
        """The chain of the job: a training and the jobs that use its checkpoint share one."""
        return f"{self.recipe} seed {self.seed}" if self.recipe else self.rule


def snakemake_options(
    profile: str | None, configfiles: Sequence[str] = (), config: Sequence[str] = ()
) -> list[str]:
    """Options of Snakemake for a dry run."""
    given = ["--profile", profile] if profile else []
    given += ["--configfile", *configfiles] if configfiles else []
    return given + (["--config", *config] if config else [])


def stale_jobs(
    targets: Sequence[str], options: Sequence[str], folder: str | Path = "."
) -> list[Job]:
    """The jobs that Snakemake would run for `targets`. Raises DryRunFailed."""
    command = [sys.executable, "-m", "snakemake", *targets, "--summary", *options]
    environment = snakemake_environment()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise DryRunFailed(f"{' '.join(command[1:])}:\n{done.stdout}{done.stderr}".rstrip())
    return parse_summary(done.stdout)


def parse_summary(summary: str) -> list[Job]:
    """The jobs with a stale output, from the output of `snakemake --summary`.

    Raises DryRunFailed if it holds no table.
    """
    lines = summary.splitlines()
    heads = [n for n, line in enumerate(lines) if line.startswith("output_file\t")]
    if not heads:
        raise DryRunFailed(f"`snakemake --summary` printed no table:\n{summary}".rstrip())
    names = lines[heads[0]].split("\t")
    jobs: set[Job] = set()
    for line in lines[heads[0] + 1 :]:
        row = dict(zip(names, line.split("\t"), strict=False))
        if row.get("plan") == PENDING:
            checkpoint = CHECKPOINT.search(row["output_file"])
            of_checkpoint = (checkpoint[1], int(checkpoint[2])) if checkpoint else ("", -1)
            home = Path(row["output_file"]).parent
            if row["rule"].endswith("_generation"):  # in a folder of its own below its condition
                condition = "" if row["rule"].startswith("stage1") else home.parent.name
            else:
                condition = home.name if row["rule"].endswith("_intervention") else ""
            jobs.add(Job(row["rule"], *of_checkpoint, condition))
    return sorted(jobs)


def study_of(
    profile: str | None,
    configfiles: Sequence[str] = (),
    config: Sequence[str] = (),
    folder: str | Path | None = None,
) -> Study:
    """The study that Snakemake loads with these options; hub repositories may lack a commit.

    Raises ConfigError, and DryRunFailed for a profile that only Snakemake could find.
    """
    if not configfiles and profile:
        file = Path(profile) / "config.yaml"
        if not file.is_file():
            raise DryRunFailed(f"{file} was not found: name the study by --configfile")
        named = (yaml.safe_load(file.read_text("utf-8")) or {}).get("configfile") or []
        configfiles = [named] if isinstance(named, str) else named
    values: dict = {}
    for configfile in configfiles:
        values = merge(values, read_config_file(configfile).values)
    for entry in config:
        name, _, value = entry.partition("=")
        values = merge(values, {name: yaml.safe_load(value)})
    return load_study(values, folder or shipped_config(), configfiles, pinned=False)


def plan_jobs(
    jobs: Sequence[Job],
    study: Study,
    market: Market,
    offers: Sequence[Offer],
    overheads: Overheads,
    machines: Sequence[int],
    benchmark: Path = BENCHMARK,
    billions: float | None = None,
) -> Plan:
    """The plan for stale jobs of a study on `offers`, which are `market.prices` or today's.

    machines: see `plan`. benchmark: a file of measured speeds; one that is not here is looked for
    in the installed workflow. billions: those of the weights, by default `billions_of(study)`.
    """
    needs, benchmark = study.hardware, shipped(benchmark)
    size = billions_of(study) if billions is None else billions
    known = measured_rates(market, needs, benchmark, Path("results") / study.study, size)
    scaling = with_measured(market.scaling, benchmark)
    if not scaling.steps:
        scaling = with_measured(market.scaling, shipped(SEVERAL))
    found = plan(
        work_of(jobs, study, known, market, overheads),
        offers,
        known,
        scaling,
        overheads,
        machines=machines,
        gpu_model=needs.gpu_model,
        gpu_mem_mb=needs.gpu_mem_mb,
    )
    where = "" if needs.gpu else ": it runs on the CPU"
    own = (
        f"Each job uses {needs.gpu} GPU (hardware.gpu){where}; another number makes every job that "
        "runs a model stale."
    )
    if size > BILLIONS:
        own += (
            f" Whether {size:.3g} B weights fit is not checked beyond hardware.gpu_mem_mb: all of "
            f"them take {6 * size:.0f} GB in a training, which its GPUs share, and activations are "
            "added."
        )
    others = _notes_on_others({job.rule for job in jobs})
    return replace(found, notes=[*found.notes, own, *others])


def _notes_on_others(rules: set[str]) -> list[str]:
    """Which of `rules` are in no estimate, and why."""

    def named(stages: Iterable[str]) -> str:
        return ", ".join(sorted(rules.intersection(stages)))

    notes = []
    if generated := named(stage_names("generation")):
        notes.append(
            f"{NOT_COUNTED}, though they take a GPU: {generated}. How long a model writes is known "
            "only when it has written (docs/generation.md)"
        )
    if of_bridge := named(stage_names("bridge")):
        notes.append(
            f"{NOT_COUNTED}, though they take hours of a GPU: {of_bridge}. docs/bridge.md has "
            "times of the second study"
        )
    run_models = stage_names("training", "scoring", "generation", "bridge")
    if others := named(rules.difference(run_models)):
        notes.append(f"Not counted, because they make only data and tables: {others}")
    return notes


def work_of(
    jobs: Sequence[Job], study: Study, rates: Rates, market: Market, overheads: Overheads
) -> list[Work]:
    """The work of the jobs that run the model; jobs that make data and tables need no GPU."""
    speed, found = market.speed(rates.gpu), []
    texts = generation_tasks(shipped_config(), study.evaluation.tasks)
    choices = [task for task in study.evaluation.tasks if task not in texts]
    evaluation = study.evaluation.model_copy(update={"tasks": choices})
    for job in jobs:
        named = (job.name, job.chain)
        stage = STAGES.get(job.rule)
        if stage and stage.kind == "training":
            recipe = study.recipes[job.recipe]
            found.append(training_work(*named, recipe, rates, speed, overheads))
        elif stage and stage.kind == "scoring":
            made = scoring_work(
                *named,
                evaluation,
                stage.masks,
                rates,
                speed,
                overheads,
                study.world.items.count,
                study.hardware.scoring_gpus,
            )
            found.append(made)
    return found
