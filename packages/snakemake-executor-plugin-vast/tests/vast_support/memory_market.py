"""A market in memory: what a market of another distribution would be, in one module.

Each offer has one machine, with the number of the offer, which starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_vast.clock import Clock
from snakemake_executor_plugin_vast.market.protocol import (
    Instance,
    NoKey,
    Offer,
    OfferGone,
    Order,
    Requirements,
    SearchRules,
)

SECRETS = ("MEMORY_MARKET_KEY",)


def connect(environment: Mapping[str, str], home: Path, clock: Clock) -> MemoryMarket:
    """A market with one offer."""
    if "MEMORY_MARKET_KEY" not in environment:
        raise NoKey("MEMORY_MARKET_KEY is not set")
    return MemoryMarket([offer(1)])


def offer(number: int, **facts: Any) -> Offer:
    """An offer whose machine has its number, and whose price rises with the number."""
    given = {"gpu_name": "RTX 4090", "gpus": 1, "gpu_mem_mb": 24564, "mem_mb": 64000}
    given |= {"disk_gb": 200, "price": 0.1 * number, "lowest_bid": 0.05 * number}
    return Offer(id=number, machine_id=number, **given | facts)


@dataclass
class MemoryMarket:
    """`instance_facts` changes the instance of an offer; offers in `taken` cannot be rented."""

    offers: list[Offer]
    instance_facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    listed: dict[str, Instance] = field(default_factory=dict)  # by label
    created: list[int] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    attached: list[tuple[int, str]] = field(default_factory=list)

    def machine_control(self, offer: Offer) -> str:
        return "def stop():\n    pass\n\n\ndestroy = check = stop\n"

    def search(self, requirements: Requirements, rules: SearchRules) -> list[Offer]:
        return list(self.offers)

    def create(self, offer: Offer, order: Order) -> int:
        if offer.id in self.taken:
            raise OfferGone(f"offer {offer.id} is gone")
        self.created.append(offer.id)
        self.orders.append(order)
        instance = Instance(
            offer.id, order.label, "running", "", offer.machine_id, 0.1,
            order.bid is not None, (("host", offer.id),),
        )  # fmt: skip
        self.listed[order.label] = replace(instance, **self.instance_facts.get(offer.id, {}))
        return offer.id

    def instances(self, prefix: str) -> list[Instance]:
        return [i for label, i in self.listed.items() if label.startswith(prefix)]

    def instance(self, id: int) -> Instance | None:
        return next((i for i in self.listed.values() if i.id == id), None)

    def destroy(self, id: int) -> None:
        self.listed = {label: i for label, i in self.listed.items() if i.id != id}

    def start(self, id: int) -> None:
        pass

    def stop(self, id: int) -> None:
        pass

    def reboot(self, id: int) -> None:
        pass

    def credit(self) -> float | None:
        return 12.5

    def attach_key(self, id: int, public_key: str) -> None:
        self.attached.append((id, public_key))
