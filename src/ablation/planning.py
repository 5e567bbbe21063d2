"""Hours and dollars before they are spent: work that is stale, on each class of machine on offer.

Pure: what is stale comes from `ablation.stale`, prices and speeds from `ablation.offers`. No torch.

    hours of a machine = start-up + set-up + transfers + its jobs
    hours of a training = steps x seconds a step / (speed x GPUs x parallel efficiency) / 3600

which is the published planner's formula where start-up is all of the overhead (resources/planning).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from ablation.generated import COUNTS
from ablation.names import protocol_of
from ablation.sources import BENCHMARKS, PUBLISHED_SPLIT

STEP_EXAMPLES = 16  # of the step that was measured
PUBLISHED_ITEMS = 500  # at most, of each task under the published protocol
UNKNOWN_ITEMS = 2000  # of a task whose data set is not known here
PROBES = 2 * 64  # losses under two masks at each evaluation of a training
FORWARD = 1 / 3  # of a training step's time


@dataclass(frozen=True)
class Overheads:
    """What is paid for beside the work. Seconds, and gigabytes at megabits a second."""

    startup: float = 240  # a machine boots, its image is pulled
    setup: float = 360  # the environment is installed
    job: float = 60  # a job loads the model, compiles, writes its results
    base_gb: float = 7  # comes to each machine
    checkpoint_gb: float = 7  # comes home from each training
    state_gb: float = 21  # written whenever a training saves, at `disk_gb_per_second`
    megabits: float = 500  # a second, to and from the machine
    disk_gb_per_second: float = 1

    def machine(self) -> float:
        """Seconds until a new machine has its first job."""
        return self.startup + self.setup + self.transfer(self.base_gb)

    def transfer(self, gigabytes: float) -> float:
        return gigabytes * 8000 / self.megabits


@dataclass(frozen=True)
class Rates:
    """How fast the work goes on one GPU of a kind, and who says so."""

    gpu: str  # a key of `gpus` in resources/planning/offers.json
    step_seconds: float  # an optimizer step of STEP_EXAMPLES examples
    items_per_second: float  # scored under one mask
    source: str


@dataclass(frozen=True)
class Offer:
    """A machine that can be rented: so many GPUs of a kind, dollars an hour for all of them."""

    gpu: str
    gpus: int
    dollars_per_hour: float
    speed: float  # of one GPU, RTX_3090 = 1
    memory_mb: int  # of one GPU
    source: str
    interruptible: bool = False

    @property
    def name(self) -> str:
        return f"{self.gpus}x {self.gpu}" + " (interruptible)" * self.interruptible


@dataclass(frozen=True)
class Work:
    """One job: seconds on one GPU of speed 1 (`training` runs on all GPUs of a machine, `scoring`
    on one), and seconds that no GPU makes shorter. Jobs of a `chain` wait for one another."""

    name: str
    chain: str
    training: float = 0.0
    scoring: float = 0.0
    fixed: float = 0.0
    alone: float = 0.0  # seconds of all of it on the GPU that was measured

    def seconds(self, offer: Offer, efficiency: float) -> float:
        fast = self.training / (offer.speed * offer.gpus * efficiency)
        return fast + self.scoring / offer.speed + self.fixed


@dataclass(frozen=True)
class Estimate:
    """What the work costs on one class of machines."""

    offer: Offer
    machines: int
    hours: float  # from the first machine's start to the last one's end
    dollars: float


def efficiency(gpus: int, table: Mapping[int, float]) -> float:
    """That of the next larger number of GPUs that is known; ValueError beyond the largest."""
    known = [n for n in sorted(table) if n >= gpus]
    if gpus < 1 or not known:
        raise ValueError(f"{gpus} GPUs: an efficiency is known for {', '.join(map(str, table))}")
    return table[known[0]]


# ---- what a job takes ------------------------------------------------------------------------


def training(
    name: str, chain: str, recipe: Mapping, rates: Rates, speed: float, over: Overheads
) -> Work:
    """A finetuning to `max_steps` (it may stop before), with its evaluations and its saves.

    recipe: as in a stamp. speed: of `rates.gpu`.
    """
    example = rates.step_seconds / STEP_EXAMPLES
    steps, looks = recipe["max_steps"], recipe["max_steps"] // recipe["eval_steps"] + 1
    seen = steps * recipe["batch_examples"] + FORWARD * looks * (recipe["eval_samples"] + PROBES)
    saves = steps // recipe["save_steps"] * over.state_gb / over.disk_gb_per_second
    fixed = over.job + saves + over.transfer(over.checkpoint_gb)
    seconds = seen * example
    return Work(name, chain, training=seconds * speed, fixed=fixed, alone=seconds + fixed)


def scoring(
    name: str,
    chain: str,
    evaluation: Mapping,
    masks: Sequence[str],
    rates: Rates,
    speed: float,
    over: Overheads,
    own: int = 300,
) -> Work:
    """One checkpoint under some masks; `own` items in each task of the micro-world."""
    items = sum(items_of(task, evaluation["limit"], own) for task in evaluation["tasks"])
    seconds = items * len(masks) / rates.items_per_second
    return Work(name, chain, scoring=seconds * speed, fixed=over.job, alone=seconds + over.job)


def items_of(task: str, limit: int | None, own: int) -> int:
    """How many items of a task are scored."""
    published = protocol_of(task) == "published"
    name = task.removeprefix("published_")
    if name in BENCHMARKS:
        count = COUNTS[name, PUBLISHED_SPLIT if published else BENCHMARKS[name].split]
    else:
        count = own if task.startswith("micro_") else UNKNOWN_ITEMS
    return min([count, *([limit] if limit else []), *([PUBLISHED_ITEMS] if published else [])])


# ---- what all of it takes --------------------------------------------------------------------


def estimate(
    works: Iterable[Work],
    offer: Offer,
    machines: int,
    table: Mapping[int, float],
    over: Overheads,
) -> Estimate:
    """All work on at most `machines` machines of one class, each kept until it has nothing to do.

    A chain stays on one machine, so that checkpoints do; the longest chains are dealt out first.
    """
    if machines < 1:
        raise ValueError(f"{machines} machines: at least one is needed")
    share = efficiency(offer.gpus, table)
    chains: dict[str, float] = {}
    for work in works:
        chains[work.chain] = chains.get(work.chain, 0.0) + work.seconds(offer, share)
    busy = [0.0] * min(machines, len(chains))
    for seconds in sorted(chains.values(), reverse=True):
        busy[busy.index(min(busy))] += seconds
    busy = [seconds + over.machine() for seconds in busy]
    dollars = sum(busy) / 3600 * offer.dollars_per_hour
    return Estimate(offer, len(busy), max(busy, default=0.0) / 3600, dollars)


@dataclass(frozen=True)
class Plan:
    """Estimates, cheapest first, and what they rest on."""

    works: list[Work]
    estimates: list[Estimate]
    rates: Rates
    notes: list[str]

    def as_json(self) -> dict:
        estimates = [asdict(e) | {"class": e.offer.name} for e in self.estimates]
        works = [asdict(w) for w in self.works]
        return {"jobs": works, "estimates": estimates, "rates": asdict(self.rates)} | {
            "notes": self.notes
        }


def plan(
    works: Sequence[Work],
    offers: Iterable[Offer],
    rates: Rates,
    table: Mapping[int, float],
    over: Overheads,
    machines: int = 1,
    gpu_model: str | None = None,
    gpu_mem_mb: int = 0,
) -> Plan:
    """What the work comes to on the cheapest offer of each class that fits the study's hardware."""
    offers = list(offers)
    small = [o for o in offers if o.memory_mb < gpu_mem_mb]
    other = [o for o in offers if gpu_model and o.gpu != gpu_model]
    best: dict[str, Offer] = {}
    for offer in offers:
        if offer in small or offer in other:
            continue
        known = best.get(offer.name)
        if known is None or offer.dollars_per_hour < known.dollars_per_hour:
            best[offer.name] = offer
    estimates = [estimate(works, offer, machines, table, over) for offer in best.values()]
    shares = ", ".join(f"{n} GPUs {table[n]:.0%}" for n in sorted(table) if n > 1)
    notes = [
        f"Speed: {rates.source}",
        f"Several GPUs share a training at an efficiency of {shares} (published, not measured "
        "here); scoring uses one of them.",
        f"Each machine: {over.startup / 60:.0f} min to start, {over.setup / 60:.0f} min to set up, "
        f"{over.transfer(over.base_gb) / 60:.0f} min for the base; each training "
        f"{over.transfer(over.checkpoint_gb) / 60:.0f} min for its checkpoint. Trainings are "
        "counted to max_steps; they may stop before.",
    ]
    if small:
        names = ", ".join(sorted({o.gpu for o in small}))
        notes.append(f"Left out, less than {gpu_mem_mb} MB (hardware.gpu_mem_mb): {names}")
    ranked = sorted(estimates, key=lambda e: (e.dollars, e.hours, e.offer.name))
    return Plan(list(works), ranked, rates, notes)


def several(offer: Offer, counts: Iterable[int]) -> list[Offer]:
    """One GPU's offer as machines of more of them, at so many times the price."""
    times = [(n, n * offer.dollars_per_hour) for n in counts]
    return [replace(offer, gpus=n, dollars_per_hour=price) for n, price in times]


# ---- before money is spent -------------------------------------------------------------------


class NotAllowed(RuntimeError):
    """Nothing may be rented: nobody said yes, or it is over the budget."""


def at_a_terminal() -> Callable[[str], str] | None:
    """How to ask the person at the terminal; None when nobody sits there."""
    return input if sys.stdin.isatty() and sys.stderr.isatty() else None


def allow_spending(
    dollars: float,
    *,
    yes: bool = False,
    budget: float | None = None,
    ask: Callable[[str], str] | None = None,
) -> None:
    """Return when about `dollars` may be spent, raise NotAllowed when not.

    Above the `budget` never. Otherwise a `yes` will do; without it `ask` is called (at_a_terminal),
    and where nobody can be asked the budget stands for the yes.
    """
    if budget is not None and dollars > budget:
        raise NotAllowed(
            f"about ${dollars:.2f} is estimated, which is over the budget of ${budget:.2f}: raise "
            "the budget, or ask for less"
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
            f"about ${dollars:.2f} would be spent and nobody is at a terminal: set a budget, or "
            "say yes beforehand (--yes)"
        )
