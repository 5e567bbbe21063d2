"""What a run would do now, asked of Snakemake by a dry run in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ablation.config import load_study
from ablation.layers import merge, read_layer
from ablation.names import ABLATED_MASKS, MASKS
from ablation.offers import Market, rates
from ablation.planning import Offer, Overheads, Plan, Rates, Work, plan, scoring, training
from ablation.schema import Study

TRAININGS = ("stage3_finetune", "stage5_longrun")
SCORINGS = {"stage1_baseline": ("causal",), "stage2_ablation": ABLATED_MASKS}
SCORINGS |= dict.fromkeys(("stage4_posteval", "stage5_posteval"), MASKS)
CHECKPOINT = re.compile(r"/([^/]+)/seed(\d+)/")
PENDING = "update pending"
BENCHMARK = Path("benchmarks/results/h100.json")


class DryRunFailed(RuntimeError):
    """Snakemake could not say what is stale."""


@dataclass(frozen=True, order=True)
class Job:
    rule: str
    recipe: str = ""
    seed: int = -1

    @property
    def name(self) -> str:
        return f"{self.rule} {self.recipe} seed {self.seed}" if self.recipe else self.rule

    @property
    def chain(self) -> str:
        """A training and what is done with its checkpoint wait for one another."""
        return f"{self.recipe} seed {self.seed}" if self.recipe else self.rule


def options(
    profile: str | None, configfiles: Sequence[str] = (), config: Sequence[str] = ()
) -> list[str]:
    """Snakemake's own, for a dry run."""
    given = ["--profile", profile] if profile else []
    given += ["--configfile", *configfiles] if configfiles else []
    return given + (["--config", *config] if config else [])


def ask(targets: Sequence[str], options: Sequence[str], folder: str | Path = ".") -> list[Job]:
    """The jobs that Snakemake would run for `targets`. Raises DryRunFailed with what it said."""
    command = [sys.executable, "-m", "snakemake", *targets, "--summary", *options]
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True)
    if done.returncode:
        raise DryRunFailed(f"{' '.join(command[1:])}:\n{done.stdout}{done.stderr}".rstrip())
    return read(done.stdout)


def read(summary: str) -> list[Job]:
    """The jobs with an output that must be made, from what `snakemake --summary` prints."""
    lines = summary.splitlines()
    heads = [n for n, line in enumerate(lines) if line.startswith("output_file\t")]
    if not heads:
        raise DryRunFailed(f"`snakemake --summary` printed no table:\n{summary}".rstrip())
    names, jobs = lines[heads[0]].split("\t"), set()
    for line in lines[heads[0] + 1 :]:
        row = dict(zip(names, line.split("\t"), strict=False))
        if row.get("plan") == PENDING:
            checkpoint = CHECKPOINT.search(row["output_file"])
            named = (checkpoint[1], int(checkpoint[2])) if checkpoint else ()
            jobs.add(Job(row["rule"], *named))
    return sorted(jobs)


def study_of(
    profile: str | None,
    configfiles: Sequence[str] = (),
    config: Sequence[str] = (),
    folder: str | Path = "config",
) -> Study:
    """The study that Snakemake reads with these options; pins may be lacking.

    Raises DryRunFailed where only Snakemake could find the profile, and ConfigError.
    """
    if not configfiles and profile:
        file = Path(profile) / "config.yaml"
        if not file.is_file():
            raise DryRunFailed(f"{file} was not found: name the study by --configfile")
        named = (yaml.safe_load(file.read_text("utf-8")) or {}).get("configfile") or []
        configfiles = [named] if isinstance(named, str) else named
    values: dict = {}
    for file in configfiles:
        values = merge(values, read_layer(file).values)
    for entry in config:
        name, _, value = entry.partition("=")
        values = merge(values, {name: yaml.safe_load(value)})
    return load_study(values, folder, configfiles, pinned=False)


def reckon(
    jobs: Sequence[Job],
    study: Study,
    market: Market,
    offers: Sequence[Offer],
    over: Overheads,
    machines: int,
    benchmark: Path = BENCHMARK,
) -> Plan:
    """What jobs of a study take and cost on `offers` (`market.prices`, or live ones)."""
    needs = study.hardware
    known = rates(market, needs.model_dump(), benchmark, Path("results") / study.study)
    found = plan(
        works(jobs, study, known, market, over),
        offers,
        known,
        market.efficiency,
        over,
        machines=machines,
        gpu_model=needs.gpu_model,
        gpu_mem_mb=needs.gpu_mem_mb,
    )
    gpus = f"The study asks for {needs.gpu} GPU a job (hardware.gpu)"
    other = "another number there makes every model job stale."
    found.notes.append(f"{gpus}; {other}" if needs.gpu else f"{gpus}: it runs on the CPU; {other}")
    rules = {job.rule for job in jobs} - {*TRAININGS, *SCORINGS}
    bridge = {rule for rule in rules if rule.startswith("bridge_")}
    if bridge:
        found.notes.append(
            "Not counted, though they run models: the cross-model bridge's jobs, whose speed was "
            f"not measured on these machines: {', '.join(sorted(bridge))}"
        )
    if other := sorted(rules - bridge):
        found.notes.append(f"Not counted, as what makes data and tables: {', '.join(other)}")
    return found


def works(
    jobs: Sequence[Job], study: Study, rates: Rates, market: Market, over: Overheads
) -> list[Work]:
    """Those of the jobs that run the model, with what they take; tables and data take no GPU."""
    speed, evaluation, found = market.speed(rates.gpu), study.evaluation.model_dump(), []
    for job in jobs:
        named = (job.name, job.chain)
        if job.rule in TRAININGS:
            found.append(training(*named, study.recipe(job.recipe), rates, speed, over))
        elif job.rule in SCORINGS:
            masks, own = SCORINGS[job.rule], study.world.items.count
            found.append(scoring(*named, evaluation, masks, rates, speed, over, own))
    return found
