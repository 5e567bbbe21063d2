"""Estimates the hours and dollars of stale jobs on each class of machine.

`ablation.planning.dry_run` finds the stale jobs, `ablation.planning.prices` reads prices and
speeds. This module does not import torch.

    hours of a machine = start-up + set-up + transfers + its jobs
    hours of a training = steps x seconds a step / (speed x GPUs x parallel efficiency) / 3600

If start-up is the only overhead, this is the formula of the published planner (resources/planning).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from ablation.config.study import Evaluation, Training
from ablation.data.benchmarks import BENCHMARKS, DOCUMENT_COUNTS, PUBLISHED_SPLIT
from ablation.vocabulary.micro_tasks import TASKS as MICRO_TASKS
from ablation.vocabulary.protocols import PUBLISHED_PREFIX

STEP_EXAMPLES = 16  # examples in the measured optimizer step
PUBLISHED_ITEMS = 500  # largest number of items of a task under the published protocol
UNKNOWN_ITEMS = 2000  # assumed number of items of a task whose data set has no entry in COUNTS
PROBES = 2 * 64  # probe samples of an evaluation, each under two masks
FORWARD = 1 / 3  # time of a forward pass, as a share of a training step
NOT_COUNTED = "NOT COUNTED"  # the note about jobs of the bridge begins with this


@dataclass(frozen=True)
class Overheads:
    """Time that is paid for beside the work, in seconds; sizes are in gigabytes."""

    startup: float = 240  # to boot a machine and pull its image
    setup: float = 360  # to install the environment
    job: float = 60  # for a job to load the model, compile, and write its results
    base_gb: float = 7  # transferred to each machine
    checkpoint_gb: float = 7  # transferred back after each training
    state_gb: float = 21  # written at each save of a training
    megabits: float = 500  # per second, to and from the machine
    disk_gb_per_second: float = 1

    def machine(self) -> float:
        """Seconds until a new machine can start its first job."""
        return self.startup + self.setup + self.transfer(self.base_gb)

    def transfer(self, gigabytes: float) -> float:
        """Seconds that a transfer takes."""
        return gigabytes * 8000 / self.megabits


@dataclass(frozen=True)
class Rates:
    """The measured speed of training and scoring on one GPU."""

    gpu: str  # a key of `gpus` in resources/planning/offers.json
    step_seconds: float  # of an optimizer step with STEP_EXAMPLES examples
    # Of such a step with one example in each forward pass: an upper bound, by the published code.
    lone_step_seconds: float
    items_per_second: float  # scored under one mask
    source: str  # where this was measured


@dataclass(frozen=True)
class Offer:
    """A machine that can be rented, with the price of all its GPUs together."""

    gpu: str
    gpus: int
    dollars_per_hour: float
    speed: float  # of one GPU; an RTX_3090 has 1
    memory_mb: int  # of one GPU
    source: str
    interruptible: bool = False
    market: str = ""  # who rents it, where offers of several markets are compared

    @property
    def name(self) -> str:
        """The class of the machine, such as `2x H100_SXM`."""
        return f"{self.gpus}x {self.gpu}" + " (interruptible)" * self.interruptible


@dataclass(frozen=True)
class Scaling:
    """{number of GPUs: its parallel efficiency}, of a training and of a scoring.

    note: where the numbers come from, and whether they were measured.
    steps: {number of GPUs: {examples of an optimizer step: the measured efficiency of a training}}.
    """

    training: Mapping[int, float]
    scoring: Mapping[int, float]
    note: str
    steps: Mapping[int, Mapping[int, float]] = field(default_factory=dict)

    def of_training(self, gpus: int, examples: int) -> float:
        """The efficiency of a training by steps of so many examples.

        Beyond the largest number of GPUs that was measured, a step loses as many seconds as there,
        and at least what `training` says.
        """
        assumed = efficiency(gpus, self.training)
        measured = [n for n in self.steps if n <= gpus]
        if gpus == 1 or not measured:
            return assumed
        most = max(measured)
        share = _between(self.steps[most], examples)
        if most == gpus:
            return share
        lost = (1 / share - 1) / most  # of the seconds that one GPU takes
        return min(assumed, 1 / (1 + gpus * lost))


def _between(measured: Mapping[int, float], examples: int) -> float:
    """The value at `examples`, linear in their logarithm between those that were measured."""
    points = sorted(measured)
    values = [measured[point] for point in points]
    return float(np.interp(math.log(examples), [math.log(point) for point in points], values))


@dataclass(frozen=True)
class Work:
    """The work of one job. Jobs of a `chain` run one after the other, on one machine.

    training, scoring: seconds on one GPU of speed 1; training uses all GPUs of a machine, scoring
    at most `cards` of them. fixed: seconds that do not depend on the GPU.
    """

    name: str
    chain: str
    training: float = 0.0
    scoring: float = 0.0
    fixed: float = 0.0
    alone: float = 0.0  # seconds of the whole job on the GPU of the measured rates
    cards: int = 1
    examples: int = STEP_EXAMPLES  # of an optimizer step

    def seconds(self, offer: Offer, scaling: Scaling) -> float:
        """Seconds of the job on an offer."""
        scored_by = min(self.cards, offer.gpus)
        share = scaling.of_training(offer.gpus, self.examples)
        trained = offer.speed * offer.gpus * share
        scored = offer.speed * scored_by * efficiency(scored_by, scaling.scoring)
        return self.training / trained + self.scoring / scored + self.fixed


@dataclass(frozen=True)
class Estimate:
    """Time and cost of all work on one class of machines."""

    offer: Offer
    machines: int
    hours: float  # from the first machine's start to the last one's end
    dollars: float


def efficiency(gpus: int, table: Mapping[int, float]) -> float:
    """The parallel efficiency of `gpus` GPUs, or of the next larger number in the table.

    Raises ValueError for numbers above the largest of the table.
    """
    known = [n for n in sorted(table) if n >= gpus]
    if gpus < 1 or not known:
        raise ValueError(f"{gpus} GPUs: an efficiency is known for {', '.join(map(str, table))}")
    return table[known[0]]


# ---- the work of a job -----------------------------------------------------------------------


def training_work(
    name: str, chain: str, recipe: Training, rates: Rates, speed: float, overheads: Overheads
) -> Work:
    """The work of a finetuning to `max_steps`, with its evaluations and its saves.

    `speed` is that of `rates.gpu`. A stop before `max_steps` is not foreseen.
    """
    lone = recipe.micro_batch_examples == 1
    example = (rates.lone_step_seconds if lone else rates.step_seconds) / STEP_EXAMPLES
    evaluations = recipe.max_steps // recipe.eval_steps + 1
    evaluated = FORWARD * evaluations * (recipe.eval_samples + PROBES)
    saves = recipe.max_steps // recipe.save_steps
    saving = saves * overheads.state_gb / overheads.disk_gb_per_second
    fixed = overheads.job + saving + overheads.transfer(overheads.checkpoint_gb)
    seconds = (recipe.max_steps * recipe.batch_examples + evaluated) * example
    work, alone = seconds * speed, seconds + fixed
    return Work(name, chain, work, fixed=fixed, alone=alone, examples=recipe.batch_examples)


def scoring_work(
    name: str,
    chain: str,
    evaluation: Evaluation,
    masks: Sequence[str],
    rates: Rates,
    speed: float,
    overheads: Overheads,
    micro_items: int = 300,
    cards: int = 1,
) -> Work:
    """The work of scoring one checkpoint under some masks.

    `micro_items` is the number of items of each task of the micro-world, `cards` that of the GPUs
    that share the items.
    """
    items = sum(items_of(task, evaluation.limit, micro_items) for task in evaluation.tasks)
    seconds = items * len(masks) / rates.items_per_second
    alone, fixed = seconds + overheads.job, overheads.job
    return Work(name, chain, scoring=seconds * speed, fixed=fixed, alone=alone, cards=cards)


def items_of(task: str, limit: int | None, micro_items: int) -> int:
    """The number of items of a task that are scored."""
    published = task.startswith(PUBLISHED_PREFIX)
    name = task.removeprefix(PUBLISHED_PREFIX)
    if name in BENCHMARKS:
        count = DOCUMENT_COUNTS[name, PUBLISHED_SPLIT if published else BENCHMARKS[name].split]
    else:
        count = micro_items if task in MICRO_TASKS else UNKNOWN_ITEMS
    return min([count, *([limit] if limit else []), *([PUBLISHED_ITEMS] if published else [])])


# ---- all work on a class of machines ---------------------------------------------------------


def estimate(
    works: Iterable[Work],
    offer: Offer,
    machines: int,
    scaling: Scaling,
    overheads: Overheads,
) -> Estimate:
    """Time and cost of all work on at most `machines` machines of one class.

    A chain stays on one machine, so that its checkpoint is not transferred. Each chain, longest
    first, goes to the machine that is free first; a machine is rented until its work is done.
    """
    if machines < 1:
        raise ValueError(f"{machines} machines: at least one is needed")
    chains: dict[str, float] = {}
    for work in works:
        chains[work.chain] = chains.get(work.chain, 0.0) + work.seconds(offer, scaling)
    busy = [0.0] * min(machines, len(chains))
    for seconds in sorted(chains.values(), reverse=True):
        busy[busy.index(min(busy))] += seconds
    busy = [seconds + overheads.machine() for seconds in busy]
    dollars = sum(busy) / 3600 * offer.dollars_per_hour
    return Estimate(offer, len(busy), max(busy, default=0.0) / 3600, dollars)


@dataclass(frozen=True)
class Plan:
    """Estimates, cheapest first, with the rates and assumptions that they use."""

    works: list[Work]
    estimates: list[Estimate]
    rates: Rates
    notes: list[str]

    def worth_taking(self) -> list[Estimate]:
        """The estimates to which no other of their market is cheaper and faster, cheapest first."""
        found: list[Estimate] = []
        fastest: dict[str, float] = {}  # {market: hours of its fastest so far}
        for one in self.estimates:
            if one.hours < fastest.get(one.offer.market, math.inf):
                fastest[one.offer.market] = one.hours
                found.append(one)
        return found

    def as_json(self) -> dict:
        """The plan as `ablation plan --json` prints it."""
        estimates = [asdict(e) | {"class": e.offer.name} for e in self.estimates]
        works = [asdict(w) for w in self.works]
        return {"jobs": works, "estimates": estimates, "rates": asdict(self.rates)} | {
            "notes": self.notes
        }


def plan(
    works: Sequence[Work],
    offers: Iterable[Offer],
    rates: Rates,
    scaling: Scaling,
    overheads: Overheads,
    machines: Sequence[int] = (1,),
    gpu_model: str | None = None,
    gpu_mem_mb: int = 0,
) -> Plan:
    """The plan for all work on the cheapest offer of each class and market that fits the study.

    machines: the largest numbers of machines, each of which gives an estimate of each class.
    """
    offers = list(offers)
    small = [o for o in offers if o.memory_mb < gpu_mem_mb]
    other = [o for o in offers if gpu_model and o.gpu != gpu_model]
    best: dict[tuple[str, str], Offer] = {}
    for offer in offers:
        if offer in small or offer in other:
            continue
        known = best.get(key := (offer.name, offer.market))
        if known is None or offer.dollars_per_hour < known.dollars_per_hour:
            best[key] = offer
    found = [
        estimate(works, offer, count, scaling, overheads)
        for offer in best.values()
        for count in machines
    ]
    estimates = list(dict.fromkeys(found))  # there may be fewer chains than machines
    seconds = {
        "start": overheads.startup,
        "setup": overheads.setup,
        "base": overheads.transfer(overheads.base_gb),
        "checkpoint": overheads.transfer(overheads.checkpoint_gb),
    }
    minutes = {name: f"{value / 60:.0f}" for name, value in seconds.items()}
    notes = [
        f"Speed: {rates.source}",
        scaling.note,
        f"Each machine: {minutes['start']} min to start, {minutes['setup']} min to set up, "
        f"{minutes['base']} min for the base; each training {minutes['checkpoint']} min for its "
        "checkpoint. Trainings are counted to max_steps; they may stop before.",
    ]
    if small:
        names = ", ".join(sorted({o.gpu for o in small}))
        notes.append(f"Left out, less than {gpu_mem_mb} MB (hardware.gpu_mem_mb): {names}")
    ranked = sorted(estimates, key=lambda e: (e.dollars, e.hours, e.offer.name))
    return Plan(list(works), ranked, rates, notes)


def multiplied(offer: Offer, counts: Iterable[int]) -> list[Offer]:
    """Machines with several of an offer's GPU, at the corresponding multiple of its price."""
    times = [(n, n * offer.dollars_per_hour) for n in counts]
    return [replace(offer, gpus=n, dollars_per_hour=price) for n, price in times]


# ---- permission to spend ---------------------------------------------------------------------


class NotAllowed(RuntimeError):
    """No machine may be rented; the message says why and what to do."""


def allow_spending(
    dollars: float,
    *,
    yes: bool = False,
    budget: float | None = None,
    ask: Callable[[str], str] | None = None,
) -> None:
    """Raise NotAllowed unless about `dollars` may be spent.

    An estimate above `budget` is never allowed. Otherwise it is allowed by `yes`; without `yes`, by
    the answer to `ask`, a function like `input`; and without `ask`, by a budget.
    """
    if budget is not None and dollars > budget:
        raise NotAllowed(
            f"about ${dollars:.2f} is estimated, which is over the budget of ${budget:.2f}: raise "
            "the budget, or request fewer jobs"
        )
    if yes:
        return
    if ask is not None:
        try:
            answer = ask(f"Rent for about ${dollars:.2f}? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise NotAllowed("nothing was rented: the answer was not yes")
    elif budget is None:
        raise NotAllowed(
            f"about ${dollars:.2f} would be spent, and there is no terminal to ask at: "
            "set a budget (--vast-budget), or allow it beforehand (--vast-yes)"
        )
