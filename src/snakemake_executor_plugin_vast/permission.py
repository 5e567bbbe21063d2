"""Before anything is rented: what it would cost is shown, and somebody, or the budget, says yes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ablation.config import load_study
from ablation.layers import ConfigError
from ablation.offers import Market
from ablation.planning import NotAllowed, Overheads, Plan, allow_spending, at_a_terminal
from ablation.schema import Study
from ablation.stale import Job, reckon
from ablation.tables import print_plan
from ablation.terminal import borrowed

from .settings import ExecutorSettings

PRICES = Path("resources/planning/offers.json")
__all__ = ["NotAllowed", "Permission"]


class Permission:
    """To rent machines for these GPU jobs, each a rule and its wildcards; asked for once.

    `config` and `files` are Snakemake's. The cheapest plan says what is asked for; where the
    workflow is not a study of ours, it is all that the jobs could cost.
    """

    def __init__(self, settings: ExecutorSettings) -> None:
        self.settings = settings
        self.answer: Exception | str = ""

    def get(
        self, jobs: Sequence[tuple[str, Mapping]], config: Mapping, files: Sequence[str]
    ) -> None:
        """Return when machines may be rented; raises NotAllowed, again and again, when not."""
        if not self.answer:
            try:
                self._ask(jobs, config, files)
                self.answer = "yes"
            except NotAllowed as refusal:
                self.answer = refusal
        if isinstance(self.answer, Exception):
            raise self.answer

    def _ask(self, jobs, config, files) -> None:
        chosen, budget = self.settings, self.settings.budget or None
        study = _study(config, files)
        plan = study and _plan(jobs, study, chosen.max_price, chosen.max_machines)
        dollars = len(jobs) * chosen.max_price * chosen.max_hours
        with borrowed():
            if plan and plan.estimates:
                print_plan(plan, study.study, len(jobs))
                dollars = plan.estimates[0].dollars
            elif budget:
                dollars = min(dollars, budget)
            allow_spending(dollars, yes=chosen.yes, budget=budget, ask=at_a_terminal())


def _study(config: Mapping, files: Sequence[str]) -> Study | None:
    try:
        return load_study(dict(config), "config", files, pinned=False)
    except (ConfigError, OSError):
        return None


def _plan(
    jobs: Sequence[tuple[str, Mapping]], study: Study, max_price: float, machines: int
) -> Plan:
    trained = [
        (rule, w["recipe"], int(w["seed"])) if "recipe" in w else (rule,) for rule, w in jobs
    ]
    market = Market.read(PRICES)
    offers = [offer for offer in market.prices if offer.dollars_per_hour <= max_price]
    return reckon([Job(*names) for names in trained], study, market, offers, Overheads(), machines)
