"""Which machine to rent: requirements, prices and the ranking of offers. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .protocol import Instance, Offer, Requirements, SearchRules

HOURS_PER_MONTH = 720.0  # as Vast counts them
PRICE_RISE = 1.03  # by which a contract may exceed the price of its offer


@dataclass(frozen=True)
class PricedOffer:
    """An offer, and the dollars per hour of its machine, its disk and the expected transfers."""

    offer: Offer
    price: float
    transfers: float = 0.0  # the part of the price that is for transfers


def priced(offer: Offer, requirements: Requirements, rules: SearchRules) -> PricedOffer:
    """An offer with what it would cost under these requirements."""
    price = hourly(offer, requirements, rules)
    return PricedOffer(offer, price, transfers(offer, requirements))


def models_of(text: str) -> tuple[str, ...]:
    """GPU models from text such as `H100_SXM|H200`."""
    return tuple(model.strip() for model in text.split("|") if model.strip())


def requirements_of(resources: Mapping[str, Any], defaults: Requirements) -> Requirements:
    """A job's requirements from its Snakemake resources, and from `defaults` for the others.

    Reads `gpu`, `gpu_model` (several separated by `|`), `gpu_mem_mb`, `mem_mb`, `disk_mb` and
    `runtime` (minutes).
    """
    disk = math.ceil(_number(resources, "disk_mb") / 1000)
    return replace(
        defaults,
        gpus=max(1, _number(resources, "gpu")),
        gpu_models=models_of(str(resources.get("gpu_model") or "")) or defaults.gpu_models,
        gpu_mem_mb=_number(resources, "gpu_mem_mb") or defaults.gpu_mem_mb,
        mem_mb=_number(resources, "mem_mb") or defaults.mem_mb,
        disk_gb=max(disk, defaults.disk_gb),
        seconds=_number(resources, "runtime") * 60.0 or defaults.seconds,
    )


def _number(resources: Mapping[str, Any], name: str) -> int:
    """A resource as a number; Snakemake's placeholders (`<TBD>`, None) count as 0."""
    value = resources.get(name)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0


def bid(offer: Offer, requirements: Requirements, rules: SearchRules) -> float | None:
    """The bid for a machine without its disk, in dollars per hour; None for one on demand."""
    if not requirements.interruptible:
        return None
    return round(min(offer.lowest_bid * rules.bid_factor, requirements.max_price), 4)


def hourly(offer: Offer, requirements: Requirements, rules: SearchRules) -> float:
    """Dollars per hour that a machine is expected to cost: its contract and its transfers."""
    return rent(offer, requirements, rules) + transfers(offer, requirements)


def transfers(offer: Offer, requirements: Requirements) -> float:
    """Dollars per hour for what is expected to be sent from and to the machine."""
    sent, received = requirements.upload_gb, requirements.download_gb
    return sent * offer.upload_price + received * offer.download_price


def rent(offer: Offer, requirements: Requirements, rules: SearchRules) -> float:
    """Dollars per hour with the disk, which an on-demand price includes and a bid does not."""
    price = bid(offer, requirements, rules)
    if price is None:
        return offer.price
    return price + offer.storage_price * requirements.disk_gb / HOURS_PER_MONTH


def rank(
    offers: Iterable[Offer],
    requirements: Requirements,
    rules: SearchRules,
    used: Collection[int] = (),
    bad: Collection[int] = (),
) -> list[Offer]:
    """The offers worth trying, the cheapest or those of the highest score first, by `rules.rank`.

    Of equals the cheaper and then the more reliable machine comes first.

    Offers in `used` were rented in this run before, and machines in `bad` failed recently. A search
    may return offers that do not fit, so they are checked here.
    """

    def fits(offer: Offer) -> bool:
        return (
            offer.id not in used
            and offer.machine_id not in bad
            and offer.gpus == requirements.gpus
            and offer.gpu_mem_mb >= requirements.gpu_mem_mb
            and offer.disk_gb >= requirements.disk_gb
            and (not offer.mem_mb or offer.mem_mb >= requirements.mem_mb)
            and offer.reliability >= rules.reliability
            and (not requirements.interruptible or offer.lowest_bid > 0)
            and hourly(offer, requirements, rules) <= requirements.max_price
        )

    def place(offer: Offer) -> tuple[float, ...]:
        price = round(hourly(offer, requirements, rules), 4)
        score = offer.score if rules.rank == "score" else 0.0
        return (-score, price, -offer.reliability, offer.id)

    return sorted(filter(fits, offers), key=place)


def contract_error(instance: Instance, requirements: Requirements, expected: float) -> str:
    """How a new machine differs from what was ordered, as a message; empty when it does not.

    `expected` is the price of the offer, in dollars per hour with the disk.

    A bid that a market treats as an order on demand costs several times the price, without any
    error.
    """
    if requirements.interruptible and not instance.interruptible:
        return "an interruptible machine was ordered, the contract is on demand"
    if not instance.price <= PRICE_RISE * expected:  # also if it is not a number
        return f"it costs ${instance.price:.3f} per hour, and its offer said ${expected:.3f}"
    return ""


def model_name(model: str) -> str:
    """A GPU model in the form in which two names are compared: `H100_SXM` is `H100 SXM`."""
    return re.sub(r"[_\s]+", " ", model).lower()


def serves(offer: Offer, disk_gb: int, interruptible: bool, requirements: Requirements) -> bool:
    """Whether a machine that is already rented meets the requirements of another job."""
    models = [model_name(model) for model in requirements.gpu_models]
    return (
        offer.gpus == requirements.gpus
        and (not models or model_name(offer.gpu_name) in models)
        and offer.gpu_mem_mb >= requirements.gpu_mem_mb
        and (not offer.mem_mb or offer.mem_mb >= requirements.mem_mb)
        and disk_gb >= requirements.disk_gb
        and (requirements.interruptible or not interruptible)
    )
