"""Which machine to rent: what a job wishes, the search, the ranking. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from .api import Instance, Offer

HOURS_A_MONTH = 730.0
RISE = 1.05  # what a price may rise between search and contract
# Words in a status message after which a machine never comes up.
FATAL = (
    "pull rate limit",
    "toomanyrequests",
    "manifest unknown",
    "manifest for",
    "unauthorized",
    "no space left",
    "oci runtime create failed",
    "could not select device driver",
    "nvidia-container-cli",
    "failed to create shim",
    "error response from daemon",
)


@dataclass(frozen=True)
class Wish:
    """What a job needs, and what may be paid for it. MB, GB, seconds, dollars an hour."""

    gpus: int = 1
    gpu_models: tuple[str, ...] = ()  # any of these; empty: any at all
    gpu_mem_mb: int = 0
    mem_mb: int = 0
    disk_gb: int = 40
    seconds: float = 3600.0  # the hard cap of the job's run time
    max_price: float = 5.0
    interruptible: bool = False


@dataclass(frozen=True)
class Market:
    """What holds for every search of a run."""

    reliability: float = 0.98
    cuda: float = 12.8
    regions: tuple[str, ...] = ()  # two-letter countries; empty: anywhere
    inet_down: float = 200.0  # Mbit/s
    datacenter: bool = False
    bid_factor: float = 1.2


def wish_of(resources: Mapping, defaults: Wish) -> Wish:
    """The wish of a job, from its Snakemake resources; what it does not name is in `defaults`.

    Reads `gpu`, `gpu_model` (several with `|`), `gpu_mem_mb`, `mem_mb`, `disk_mb` and `runtime`
    (minutes).
    """
    models = str(resources.get("gpu_model") or "")
    disk = math.ceil(_number(resources, "disk_mb") / 1000)
    return replace(
        defaults,
        gpus=max(1, _number(resources, "gpu")),
        gpu_models=tuple(m.strip() for m in models.split("|") if m.strip()) or defaults.gpu_models,
        gpu_mem_mb=_number(resources, "gpu_mem_mb") or defaults.gpu_mem_mb,
        mem_mb=_number(resources, "mem_mb") or defaults.mem_mb,
        disk_gb=max(disk, defaults.disk_gb),
        seconds=_number(resources, "runtime") * 60.0 or defaults.seconds,
    )


def _number(resources: Mapping, name: str) -> int:
    """A resource as a number; Snakemake's placeholders (`<TBD>`, None) count as nothing."""
    value = resources.get(name)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0


def query(wish: Wish, market: Market) -> dict:
    """The body of the search. A bid is asked for as type `bid`; its price comes with the create."""
    asked: dict = {
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "num_gpus": {"eq": wish.gpus},
        "reliability": {"gte": market.reliability},
        "cuda_max_good": {"gte": market.cuda},
        "inet_down": {"gte": market.inet_down},
        "disk_space": {"gte": wish.disk_gb},
        "duration": {"gte": wish.seconds},
        "type": "bid" if wish.interruptible else "on-demand",
        "order": [["min_bid" if wish.interruptible else "dph_total", "asc"]],
        "allocated_storage": wish.disk_gb,
        "limit": 40,
    }
    if not wish.interruptible:
        asked["dph_total"] = {"lte": wish.max_price}
    if wish.gpu_models:
        asked["gpu_name"] = {"in": [model.replace("_", " ") for model in wish.gpu_models]}
    if wish.gpu_mem_mb:
        asked["gpu_ram"] = {"gte": wish.gpu_mem_mb}
    if wish.mem_mb:
        asked["cpu_ram"] = {"gte": wish.mem_mb}
    if market.regions:
        asked["geolocation"] = {"in": list(market.regions)}
    if market.datacenter:
        asked["datacenter"] = {"eq": True}
    return asked


def bid(offer: Offer, wish: Wish, market: Market) -> float | None:
    """What to bid for the GPUs, in dollars an hour; None for a machine on demand."""
    if not wish.interruptible:
        return None
    return round(min(offer.min_bid * market.bid_factor, wish.max_price), 4)


def hourly(offer: Offer, wish: Wish, market: Market) -> float:
    """Dollars an hour, disk included. A search on demand counts the disk in, a bid does not."""
    if not wish.interruptible:
        return offer.dph_total
    return bid(offer, wish, market) + offer.storage_cost * wish.disk_gb / HOURS_A_MONTH


def rank(
    offers: Iterable[Offer],
    wish: Wish,
    market: Market,
    used: Collection[int] = (),
    bad: Collection[int] = (),
) -> list[Offer]:
    """The offers worth trying, cheapest first; of equals the more reliable one.

    `used` are offers already rented in this run, `bad` machines that failed us. What the search
    should have left out is left out again here.
    """

    def fits(offer: Offer) -> bool:
        return (
            offer.id not in used
            and offer.machine_id not in bad
            and offer.num_gpus == wish.gpus
            and offer.gpu_ram >= wish.gpu_mem_mb
            and offer.disk_space >= wish.disk_gb
            and (not wish.interruptible or offer.min_bid > 0)
            and hourly(offer, wish, market) <= wish.max_price
        )

    return sorted(
        filter(fits, offers),
        key=lambda o: (round(hourly(o, wish, market), 4), -o.reliability, o.id),
    )


def request(
    wish: Wish, image: str, label: str, onstart: str, price: float | None, login: str = ""
) -> dict:
    """The body of the create. Nothing secret in it: the API shows it to whoever may list."""
    body = {
        "client_id": "me",
        "image": image,
        "disk": wish.disk_gb,
        "label": label,
        "onstart": onstart,
        "runtype": "ssh_direc ssh_proxy",
        "target_state": "running",
        "cancel_unavail": True,
    }
    if price is not None:
        body["price"] = price
    return body | ({"image_login": login} if login else {})


def wrong_contract(instance: Instance, wish: Wish, expected: float) -> str:
    """Why a new machine is not what was asked for; empty when it is.

    A bid that the API takes for a rental on demand costs several times the price, silently.
    """
    if wish.interruptible and not instance.is_bid:
        return "asked for an interruptible machine, got one on demand"
    if instance.dph_total > max(RISE * expected, 0.0) and instance.dph_total > wish.max_price:
        return f"costs ${instance.dph_total:.3f}/h, more than the cap of ${wish.max_price:.3f}/h"
    return ""


def fatal(message: str) -> bool:
    """Whether a status message says that the machine will never come up."""
    return any(words in message.lower() for words in FATAL)


def serves(offer: Offer, disk_gb: int, interruptible: bool, wish: Wish) -> bool:
    """Whether a machine that is already rented will do for another job."""
    models = [re.sub(r"[_\s]+", " ", m).lower() for m in wish.gpu_models]
    return (
        offer.num_gpus == wish.gpus
        and (not models or offer.gpu_name.lower() in models)
        and offer.gpu_ram >= wish.gpu_mem_mb
        and (not offer.cpu_ram or offer.cpu_ram >= wish.mem_mb)
        and disk_gb >= wish.disk_gb
        and (wish.interruptible or not interruptible)
    )
