"""Before anything is rented: what it would cost is shown, and somebody, or the budget, says yes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ablation.config import load_study
from ablation.layers import ConfigError
from ablation.offers import Market
from ablation.planning import NotAllowed, Offer, Overheads, Plan, allow_spending, at_a_terminal
from ablation.schema import Study
from ablation.stale import Job, reckon
from ablation.tables import print_plan
from ablation.terminal import borrowed

from . import offers
from .api import VastError
from .settings import ExecutorSettings, market_of

PRICES = Path("resources/planning/offers.json")
__all__ = ["NotAllowed", "Permission"]


class Permission:
    """To rent machines for these GPU jobs, each a rule and its wildcards; asked for once.

    `config` and `files` are Snakemake's, `wish` is what the most demanding job needs, `search` asks
    the market for it. The cheapest plan on today's offers says what is asked for, on the price
    table where the market does not answer. Of jobs that it does not count (the bridge's, or another
    workflow's) it is all that they could cost, and that the budget leaves.
    """

    def __init__(
        self, settings: ExecutorSettings, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.settings, self.say = settings, say
        self.answer: Exception | str = ""

    def get(
        self,
        jobs: Sequence[tuple[str, Mapping]],
        config: Mapping,
        files: Sequence[str],
        wish: offers.Wish,
        search: Callable[[dict], Sequence],
    ) -> None:
        """Return when machines may be rented; raises NotAllowed, again and again, when not."""
        if not self.answer:
            try:
                self._ask(jobs, _study(config, files), wish, search)
                self.answer = "yes"
            except NotAllowed as refusal:
                self.answer = refusal
        if isinstance(self.answer, Exception):
            raise self.answer

    def _ask(self, jobs, study: Study | None, wish, search) -> None:
        chosen, budget, plan = self.settings, self.settings.budget or None, None
        if study:
            market = Market.read(PRICES)
            models = {market.gpu(model) for model in wish.gpu_models}
            found = [
                offer
                for offer in self._today(market, wish, search) or market.prices
                if offer.dollars_per_hour <= chosen.max_price
                and offer.gpus == wish.gpus
                and (not models or offer.gpu in models)
            ]
            plan = _plan(jobs, study, market, found, chosen.max_machines)
        planned = plan and plan.estimates
        dollars = plan.estimates[0].dollars if planned else 0.0
        unknown = len(jobs) - (len(plan.works) if planned else 0)
        most = unknown * chosen.max_price * chosen.max_hours
        if budget:
            most = min(most, max(0.0, budget - dollars))
        with borrowed():
            if planned:
                print_plan(plan, study.study, len(jobs))
            if unknown:
                self.say(f"{unknown} jobs that no plan counts could cost ${most:.2f} more")
            dollars += most
            allow_spending(dollars, yes=chosen.yes, budget=budget, ask=at_a_terminal())

    def _today(self, market: Market, wish: offers.Wish, search) -> list[Offer]:
        """The cheapest offer of each GPU of known speed that would do; none where none is told."""
        rules, best = market_of(self.settings), {}
        try:
            found = offers.rank(search(offers.query(wish, rules)), wish, rules)
        except VastError as fault:
            self.say(f"the market did not answer ({fault}): the plan is made with the price table")
            return []
        for offer in reversed(found):  # the best comes last, and stays
            if gpu := market.gpu(offer.gpu_name):
                best[gpu] = Offer(
                    gpu, offer.num_gpus, offers.hourly(offer, wish, rules), market.speed(gpu),
                    round(offer.gpu_ram), f"today, {offer.geolocation}", wish.interruptible,
                )  # fmt: skip
        if not best:
            self.say("no offer of the market would do now: the plan is made with the price table")
        return list(best.values())


def _study(config: Mapping, files: Sequence[str]) -> Study | None:
    try:
        return load_study(dict(config), "config", files, pinned=False)
    except (ConfigError, OSError):
        return None


def _plan(
    jobs: Sequence[tuple[str, Mapping]],
    study: Study,
    market: Market,
    found: Sequence[Offer],
    machines: int,
) -> Plan:
    trained = [
        (rule, w["recipe"], int(w["seed"])) if "recipe" in w else (rule,) for rule, w in jobs
    ]
    return reckon([Job(*names) for names in trained], study, market, found, Overheads(), machines)
