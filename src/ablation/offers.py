"""What `ablation plan` reckons with: prices, speeds of GPUs, and how fast our own work was seen.

Prices come from a table in the repository or, asked for, from today's markets (gpuhunt, an extra);
speeds from earlier runs of the study, else from benchmarks/results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablation.lineage import read_run
from ablation.planning import STEP_EXAMPLES, Offer, Rates, several
from ablation.provenance import StaleInput

COUNTS = (1, 2, 4, 8)  # GPUs a machine
PROVIDERS = ["vastai"]  # of those that gpuhunt knows, the one that a profile can rent from
MEASURED = "a model of 3.4 B weights"  # what benchmarks/gpu.py runs


class NoOffers(RuntimeError):
    """Today's markets could not be asked."""


@dataclass(frozen=True)
class Market:
    """resources/planning/offers.json: GPUs by name, and what they cost."""

    gpus: Mapping[str, Mapping]
    efficiency: Mapping[int, float]
    prices: list[Offer]

    @classmethod
    def read(cls, file: str | Path) -> Market:
        table = json.loads(Path(file).read_text("utf-8"))
        gpus, prices = table["gpus"], []
        for row in table["prices"]:
            known = gpus[row["gpu"]]
            source = f"{row['provider']} {row['date']}"
            one = Offer(
                row["gpu"], 1, row["dollars_per_hour"], known["speed"], known["memory_mb"], source
            )
            prices += several(one, COUNTS)
        return cls(gpus, {int(n): e for n, e in table["parallel_efficiency"].items()}, prices)

    def gpu(self, name: str) -> str | None:
        """The key of a GPU by any of its names ("NVIDIA H100 80GB HBM3"); None when unknown."""
        found = _plain(name)
        for key, known in self.gpus.items():
            if found in {_plain(n) for n in (key, *known["names"])}:
                return key
        return None

    def speed(self, gpu: str) -> float:
        return self.gpus[gpu]["speed"]


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|[\W_]", "", name.lower())


def live(market: Market, gpu_mem_mb: int = 0) -> list[Offer]:
    """Today's offers of known GPUs of so much memory, interruptible ones too. Raises NoOffers."""
    try:
        import gpuhunt
    except ImportError:
        raise NoOffers(
            'today\'s offers are asked for through gpuhunt: pip install --editable ".[prices]"'
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
    except Exception as fault:  # no network, a changed answer: of many kinds, none of them ours
        raise NoOffers(f"the market did not answer ({type(fault).__name__}: {fault})") from fault
    return [offer for item in found if (offer := _offer(market, item))]


def _offer(market: Market, item) -> Offer | None:
    """A row of gpuhunt's catalogue; None for a GPU of unknown speed or an odd number of them."""
    gpu = market.gpu(item.gpu_name or "")
    if gpu is None or item.gpu_count not in COUNTS:
        return None
    memory = round(item.gpu_memory * 1024)
    source = f"{item.provider} now, {item.location}"
    return Offer(gpu, item.gpu_count, item.price, market.speed(gpu), memory, source, item.spot)


# ---- how fast --------------------------------------------------------------------------------


def rates(market: Market, hardware: Mapping, benchmarks: Path, results: Path) -> Rates:
    """Of earlier runs of this study on a known GPU, else of the benchmark."""
    known = benchmarked(market, hardware, benchmarks)
    seen = [*_seen(market, results)]
    if not seen:
        return known
    gpu, seconds, source = max(seen, key=lambda s: s[1] * market.speed(s[0]))
    items = known.items_per_second * market.speed(gpu) / market.speed(known.gpu)
    return Rates(gpu, seconds, items, f"{source}; scoring as in {benchmarks.name}")


def benchmarked(market: Market, hardware: Mapping, file: Path) -> Rates:
    """What benchmarks/results/NAME.json has for a study's kernels.

    The fast path was measured as it is; for any other the published way's times stand, which are
    far above: better a plan that is too dear.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
        name = found["machine"]["name"]
        step, items = found["training"]["step16_s"], found["scoring"]["items_per_s"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise NoOffers(
            f"{file} holds no step times ({type(fault).__name__}: {fault}); what "
            "benchmarks/gpu.py writes was expected: benchmarks/results/h100.json"
        ) from None
    gpu = market.gpu(name)
    if gpu is None:
        raise NoOffers(f"{file}: {name} is not in resources/planning")
    fast = hardware["attention"] == "flex_attention" and hardware["compile"]
    if fast:
        source = f"{MEASURED}, measured on {name} (docs/performance.md)"
        return Rates(gpu, step["ours"], items["ours_prefill_bidir"], source)
    way = f"attention: {hardware['attention']}, compile: {str(hardware['compile']).lower()}"
    times = step["seed"] / step["ours"]
    source = (
        f"{MEASURED} trained the published way, measured on {name}: nothing "
        f"was measured for {way}. The fast path (docs/performance.md) takes {times:.0f} times less "
        "a step"
    )
    return Rates(gpu, step["seed"], items["hflm"], source)


def _seen(market: Market, results: Path) -> Iterator[tuple[str, float, str]]:
    """(GPU, seconds a step of STEP_EXAMPLES examples, where) of finished trainings."""
    for file in sorted(results.glob("stage[35]_*/*/seed*/run.json")):
        try:
            run, told = read_run(file), file.with_name("summary.json")
        except StaleInput:
            continue  # speeds are seen elsewhere as well
        names = [gpu["name"] for gpu in run.get("gpus", ())]
        gpu = market.gpu(names[0]) if len(names) == 1 else None
        if gpu is None or not told.is_file():
            continue
        summary = json.loads(told.read_text("utf-8"))
        if not (summary["steps"] and run.get("tokens_per_second")):
            continue
        examples = summary["steps"] * summary["recipe"]["batch_examples"]
        seconds = summary["tokens"] / run["tokens_per_second"] / examples * STEP_EXAMPLES
        yield gpu, seconds, f"seen on {names[0]} ({file.parent.as_posix()})"
