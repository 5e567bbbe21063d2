"""Prices of machines and measured speeds, from which `ablation plan` makes its estimates.

Prices come from a table in the repository, or from today's offers: those of Vast.ai by `gpuhunt`,
an optional package, those of RunPod by the executor's client. Speeds come from earlier runs of the
study, or else from benchmarks/results.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablation.config.study import Hardware, Study
from ablation.planning.estimate import STEP_EXAMPLES, Offer, Rates, Scaling, multiplied
from ablation.provenance.code_hash import ROOT
from ablation.provenance.manifests import StaleInput
from ablation.provenance.run_records import read_run_record
from ablation.vocabulary.stages import stage_names

COUNTS = (1, 2, 4, 8)  # numbers of GPUs of a machine
PROVIDERS = ["vastai"]  # of gpuhunt, which has RunPod's offers of another day only
MEASURED, BILLIONS = "a model of 3.4 B weights", 3.43  # the model of benchmarks/gpu.py
TRAININGS = stage_names("training")
OFFERS = Path("resources/planning/offers.json")
BENCHMARK = Path("benchmarks/results/h100.json")
SEVERAL = Path("benchmarks/results/h100_two.json")  # the efficiency of several GPUs


def shipped(file: Path) -> Path:
    """A file of the repository: the one here, or that of the installed workflow elsewhere."""
    installed = ROOT / file
    return installed if not file.is_file() and installed.is_file() else file


class NoOffers(RuntimeError):
    """Today's offers, or measured speeds, are not available; the message says why."""


@dataclass(frozen=True)
class Market:
    """The content of resources/planning: GPUs and prices, and what several GPUs give together."""

    gpus: Mapping[str, Mapping]
    scaling: Scaling
    prices: list[Offer]

    @classmethod
    def read(cls, file: str | Path) -> Market:
        """Read the table of offers, and scaling.json beside it."""
        table = json.loads(Path(file).read_text("utf-8"))
        gpus: dict[str, Mapping] = table["gpus"]
        prices: list[Offer] = []
        for row in table["prices"]:
            known = gpus[row["gpu"]]
            source = f"{row['provider']} {row['date']}"
            one = Offer(
                row["gpu"], 1, row["dollars_per_hour"], known["speed"], known["memory_mb"], source
            )
            prices += multiplied(one, COUNTS)
        scaling = json.loads(Path(file).with_name("scaling.json").read_text("utf-8"))
        return cls(gpus, assumed_scaling(scaling), prices)

    def gpu(self, name: str) -> str | None:
        """The key of a GPU with one of its names ("NVIDIA H100 80GB HBM3"), or None."""
        found = _plain(name)
        for key, known in self.gpus.items():
            if found in {_plain(n) for n in (key, *known["names"])}:
                return key
        return None

    def speed(self, gpu: str) -> float:
        """The speed of a GPU; an RTX_3090 has 1."""
        return self.gpus[gpu]["speed"]


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|[\W_]", "", name.lower())


def live_offers(market: Market, gpu_mem_mb: int = 0) -> list[Offer]:
    """Today's offers of known GPUs with at least `gpu_mem_mb`, interruptible ones included.

    Raises NoOffers.
    """
    try:
        import gpuhunt
    except ImportError:
        raise NoOffers(
            'today\'s offers need the package gpuhunt: pip install --editable ".[prices]"'
        ) from None
    catalog = gpuhunt.Catalog(balance_resources=False, auto_reload=False)
    try:
        from gpuhunt.providers.vastai import VastAIProvider

        catalog.add_provider(VastAIProvider())
        found = catalog.query(
            provider=PROVIDERS,
            min_gpu_count=1,
            max_gpu_count=max(COUNTS),
            min_gpu_memory=gpu_mem_mb / 1024 or None,
        )
    except Exception as error:  # gpuhunt raises errors of many packages
        raise NoOffers(f"the market did not answer ({type(error).__name__}: {error})") from error
    offers = [offer for item in found if (offer := _offer(market, item))]
    return offers + _runpod_offers(market)


def _runpod_offers(market: Market) -> list[Offer]:
    """Those of RunPod, whose catalogue is read with the key in RUNPOD_API_KEY; none without one."""
    if not os.environ.get("RUNPOD_API_KEY"):
        return []
    from snakemake_executor_plugin_vast.market import connect
    from snakemake_executor_plugin_vast.market.protocol import (
        MarketError,
        Requirements,
        SearchRules,
    )

    try:
        client = connect("runpod", os.environ, Path.home())
        found = [
            offer for n in COUNTS for offer in client.search(Requirements(gpus=n), SearchRules())
        ]
    except MarketError as error:
        raise NoOffers(f"RunPod did not answer ({error})") from error
    return [
        Offer(
            gpu, offer.gpus, offer.price, market.speed(gpu), round(offer.gpu_mem_mb),
            f"runpod now, {offer.location}", market="runpod",
        )
        for offer in found
        if (gpu := market.gpu(offer.gpu_name))
    ]  # fmt: skip


def _offer(market: Market, item: Any) -> Offer | None:
    """A row of gpuhunt's catalogue; None if the speed of the GPU or their number is not known."""
    gpu = market.gpu(item.gpu_name or "")
    if gpu is None or item.gpu_count not in COUNTS:
        return None
    memory = round(item.gpu_memory * 1024)
    source = f"{item.provider} now, {item.location}"
    return Offer(gpu, item.gpu_count, item.price, market.speed(gpu), memory, source, item.spot)


# ---- several GPUs ----------------------------------------------------------------------------

TO_MEASURE = "python benchmarks/gpu.py --only one_gpu two_gpus four_gpus"
# {work of benchmarks/gpu_ranks.py: examples of an optimizer step}, with `hardware.keep_gathered`.
MEASURED_STEPS = {"published": 16, "tokens_64k": 384}
AGAIN = "tokens_64k_again"  # without it
KINDS = ("training", "scoring")


def assumed_scaling(table: Mapping[str, Any]) -> Scaling:
    """What resources/planning/scaling.json says, none of which was measured."""
    shares = {
        kind: {1: 1.0} | {int(n): row["efficiency"] for n, row in table[kind].items()}
        for kind in KINDS
    }
    note = (
        "Several GPUs: NOT MEASURED, but assumed. A training on "
        f"{_listed(shares['training'])} of as many times the speed of one, a scoring "
        f"(hardware.scoring_gpus) on {_listed(shares['scoring'])}. `{TO_MEASURE}` measures it"
    )
    return Scaling(shares["training"], shares["scoring"], note)


def with_measured(scaling: Scaling, benchmark: Path) -> Scaling:
    """`scaling` with the efficiencies that a file of benchmarks/results holds, if any."""
    try:
        record = json.loads(benchmark.read_text("utf-8"))
        measured = {int(n): dict(shares) for n, shares in record["efficiency"].items()}
        name = record["machine"]["name"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return scaling
    if not measured:
        return scaling
    steps = {
        n: {examples: shares[work] for work, examples in MEASURED_STEPS.items() if work in shares}
        for n, shares in measured.items()
    }
    scoring = {n: shares["scoring"] for n, shares in measured.items() if "scoring" in shares}
    told = [_told(n, steps[n], shares) for n, shares in measured.items()]
    note = f"Several GPUs, measured on {name} ({benchmark.name}): {'; '.join(told)}. Others: "
    note += scaling.note.removeprefix("Several GPUs: ")
    return replace(scaling, scoring={**scaling.scoring, **scoring}, note=note, steps=steps)


def _told(gpus: int, steps: Mapping[int, float], shares: Mapping[str, float]) -> str:
    """What was measured on so many GPUs, in words."""
    sizes = [f"{share:.0%} by steps of {examples} examples" for examples, share in steps.items()]
    told = [f"{gpus} GPUs train at {' and '.join(sizes)}"] if sizes else []
    if AGAIN in shares:
        told.append(f"{shares[AGAIN]:.0%} by the latter without hardware.keep_gathered")
    if "scoring" in shares:
        told.append(f"score at {shares['scoring']:.0%}")
    return ", ".join(told)


def _listed(shares: Mapping[int, float]) -> str:
    return ", ".join(f"{n} GPUs at {shares[n]:.0%}" for n in sorted(shares) if n > 1)


# ---- speeds ----------------------------------------------------------------------------------


def measured_rates(
    market: Market,
    hardware: Hardware,
    benchmarks: Path,
    results: Path,
    billions: float = BILLIONS,
) -> Rates:
    """The rates of earlier runs of a study on a known GPU, or else of the benchmark.

    `benchmarks` is a file of benchmarks/results, `results` the folder of the study. Of several
    runs the slowest is taken, so that the plan does not underestimate the cost. Those of the
    benchmark are taken to fall as the billions of weights grow.
    """
    known = of_size(benchmarked(market, hardware, benchmarks), billions)
    seen = list(_earlier_runs(market, results))
    if not seen:
        return known
    gpu, seconds, source = max(seen, key=lambda s: s[1] * market.speed(s[0]))
    faster = market.speed(gpu) / market.speed(known.gpu)
    lone = max(seconds, known.lone_step_seconds / faster)
    items = known.items_per_second * faster
    return Rates(gpu, seconds, lone, items, f"{source}; scoring as in {benchmarks.name}")


def benchmarked(market: Market, hardware: Hardware, file: Path) -> Rates:
    """The rates in benchmarks/results/NAME.json for a study's hardware settings.

    Only the fast path and the published code were measured. The times of the published code are
    used for all other settings, and for trainings with one example in a forward pass, because they
    overestimate the cost. Raises NoOffers.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
        name = found["machine"]["name"]
        step, items = found["training"]["step16_s"], found["scoring"]["items_per_s"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoOffers(
            f"{file} holds no step times ({type(error).__name__}: {error}); what "
            "benchmarks/gpu.py writes was expected: benchmarks/results/h100.json"
        ) from None
    gpu = market.gpu(name)
    if gpu is None:
        raise NoOffers(f"{file}: {name} is not in resources/planning")
    fast = hardware.attention == "flex_attention" and hardware.compile
    if fast:
        source = f"{MEASURED}, measured on {name} (docs/performance.md)"
        return Rates(gpu, step["ours"], step["seed"], items["ours_prefill_bidir"], source)
    way = f"attention: {hardware.attention}, compile: {str(hardware.compile).lower()}"
    times = step["seed"] / step["ours"]
    source = (
        f"{MEASURED} trained the published way, measured on {name}: nothing "
        f"was measured for {way}. The fast path (docs/performance.md) takes {times:.0f} times less "
        "a step"
    )
    return Rates(gpu, step["seed"], step["seed"], items["hflm"], source)


def billions_of(study: Study) -> float:
    """The billions of weights of a random base; of any other one those of the measured model."""
    if study.base != "random" or (shape := study.random) is None:
        return BILLIONS
    queries = shape.heads * shape.head_dim
    attention = shape.width * 2 * (queries + shape.key_value_heads * shape.head_dim)
    layer = attention + 3 * shape.width * shape.feed_forward + 2 * shape.width
    return round(((shape.vocabulary + 1) * shape.width + shape.layers * layer) / 1e9, 2)


def of_size(rates: Rates, billions: float) -> Rates:
    """The rates of a model of so many weights, by those of the measured one.

    A smaller model is not faster: it leaves a GPU waiting (docs/performance.md).
    """
    if billions <= BILLIONS:
        return rates
    times = billions / BILLIONS
    return Rates(
        rates.gpu,
        rates.step_seconds * times,
        rates.lone_step_seconds * times,
        rates.items_per_second / times,
        f"{rates.source}, for {billions:.3g} B weights {times:.2g} times as long",
    )


def _earlier_runs(market: Market, results: Path) -> Iterator[tuple[str, float, str]]:
    """(GPU, seconds of a step with STEP_EXAMPLES examples, source) of finished trainings."""
    for file in sorted(f for name in TRAININGS for f in results.glob(f"{name}/*/seed*/run.json")):
        try:
            run = read_run_record(file)
        except StaleInput:
            continue  # other runs can have speeds too
        names = [gpu["name"] for gpu in run.get("gpus", ())]
        gpu = market.gpu(names[0]) if len(names) == 1 else None
        file = file.with_name("summary.json")
        if gpu is None or not file.is_file():
            continue
        summary = json.loads(file.read_text("utf-8"))
        if not (summary["steps"] and run.get("tokens_per_second")):
            continue
        examples = summary["steps"] * summary["recipe"]["batch_examples"]
        seconds = summary["tokens"] / run["tokens_per_second"] / examples * STEP_EXAMPLES
        yield gpu, seconds, f"seen on {names[0]} ({file.parent.as_posix()})"
