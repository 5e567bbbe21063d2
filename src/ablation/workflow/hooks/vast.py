"""The hook of `--executor vast`: the plan with prices, the question, and facts for run records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_vast.hooks import (
    Hook,
    NotAllowed,
    RentalRequest,
    RentedJob,
    Workflow,
)
from snakemake_executor_plugin_vast.market.protocol import MarketError
from snakemake_executor_plugin_vast.terminal import at_a_terminal, live_display_paused

from ablation.config.load import load_study
from ablation.config.merging import ConfigError, shipped_config
from ablation.config.study import Study
from ablation.planning import estimate
from ablation.planning.dry_run import Job, plan_jobs
from ablation.planning.estimate import Offer, Overheads, Plan, allow_spending
from ablation.planning.prices import OFFERS, Market, shipped
from ablation.planning.print_plan import print_plan
from ablation.provenance.run_records import ATTEMPT, GIT_STATE, git_state
from ablation.workflow.notifications import BUDGET, NOTIFIER


class StudyHook(Hook):
    """Plans and asks for workflows whose configuration is a study of this project."""

    def __init__(self) -> None:
        self._studies: dict[Path, Study | None] = {}

    def permit(self, workflow: Workflow, request: RentalRequest) -> bool | None:
        """Print the cheapest plan and ask. Without a terminal the budget counts as a yes."""
        study = self._study(workflow)
        if study is None:
            return None
        if study.hardware.nodes > 1:
            raise NotAllowed(
                f"hardware.nodes: {study.hardware.nodes} found, but rented machines share no "
                "folder: give 1, and GPUs of one machine, or use a cluster (docs/slurm.md)"
            )
        chosen, budget = request.settings, request.settings.budget or None
        plan = make_plan(study, request)
        planned = plan.estimates[0].dollars if plan.estimates else 0.0
        unplanned = len(request.jobs) - (len(plan.works) if plan.estimates else 0)
        most = unplanned * chosen.max_price * chosen.max_hours
        if budget:
            most = min(most, max(0.0, budget - planned))
        with live_display_paused():
            if plan.estimates:
                print_plan(plan, study.study, len(request.jobs))
            if unplanned:
                request.log(f"{unplanned} jobs that the plan does not count could cost ${most:.2f}")
            for note in request.notes():
                request.log(note)
            try:
                dollars = planned + most
                allow_spending(dollars, yes=chosen.yes, budget=budget, ask=at_a_terminal())
            except estimate.NotAllowed as refusal:
                raise NotAllowed(str(refusal)) from None
        return True

    def job_environment(self, workflow: Workflow, attempt: str) -> Mapping[str, str] | None:
        """The attempt's name and the commit, since sources are copied without .git."""
        if self._study(workflow) is None:
            return None
        return {ATTEMPT: attempt, GIT_STATE: json.dumps(git_state(workflow.workdir))}

    def over_budget(self, workflow: Workflow, reason: str) -> None:
        """Send the notification; the run goes on with the jobs that need no new machine."""
        if self._study(workflow) is not None:
            NOTIFIER.send(BUDGET, f"No machine is rented any more: {reason}.")

    def _study(self, workflow: Workflow) -> Study | None:
        """The study of a workflow, None for a workflow of another project."""
        if workflow.workdir not in self._studies:
            files = [str(file) for file in workflow.configfiles]
            config: dict[str, Any] = dict(workflow.config)
            try:
                study: Study | None = load_study(config, shipped_config(), files, pinned=False)
            except (ConfigError, OSError):
                study = None
            self._studies[workflow.workdir] = study
        return self._studies[workflow.workdir]


hook = StudyHook()


def make_plan(study: Study, request: RentalRequest) -> Plan:
    """The plan on today's offers, or on the price table if the market has none that would do."""
    market, needed, chosen = Market.read(shipped(OFFERS)), request.most_demanding, request.settings
    models = {market.gpu(model) for model in needed.gpu_models}
    offers = [
        offer
        for offer in todays_offers(market, request) or market.prices
        if offer.dollars_per_hour <= chosen.max_price
        and offer.gpus == needed.gpus
        and (not models or offer.gpu in models)
    ]
    jobs = stale_jobs(request.jobs)
    return plan_jobs(jobs, study, market, offers, Overheads(), [chosen.max_machines])


def todays_offers(market: Market, request: RentalRequest) -> list[Offer]:
    """The first offer of each GPU of known speed at each market, with the price of its transfers.

    The list is empty if no market lists an offer.
    """
    first: dict[tuple[str, str], Offer] = {}
    try:
        found = request.offers()
    except MarketError as error:
        request.log(f"the market did not answer ({error}): the plan is made with the price table")
        return []
    for priced in reversed(found):  # what would be rented first comes last and replaces the others
        offer = priced.offer
        if gpu := market.gpu(offer.gpu_name):
            sent = f", transfers ${priced.transfers:.2f}/h" if priced.transfers else ""
            place = f"{offer.location} of {offer.market}" if offer.market else offer.location
            first[gpu, offer.market] = Offer(
                gpu, offer.gpus, priced.price, market.speed(gpu), round(offer.gpu_mem_mb),
                f"today, {place}{sent}", request.most_demanding.interruptible, offer.market,
            )  # fmt: skip
    if not first:
        request.log("no offer meets the requirements now: the plan is made with the price table")
    return list(first.values())


def stale_jobs(jobs: Sequence[RentedJob]) -> list[Job]:
    """The jobs as the planner names them."""
    return [
        Job(job.rule, job.wildcards["recipe"], int(job.wildcards["seed"]))
        if "recipe" in job.wildcards
        else Job(job.rule)
        for job in jobs
    ]
