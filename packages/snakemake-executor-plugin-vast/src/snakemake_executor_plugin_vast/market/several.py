"""Several markets as one: their offers are ranked together, each machine stays with its market.

A machine is called `MARKET:ID` here, so that a call finds its market after a restart as well.

A market that does not answer is left out of a search, unless this run has machines there. Then
nothing is rented until it answers, since no new machine could be watched without a complete list.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from .protocol import (
    AccountRefused,
    Instance,
    MachineId,
    Market,
    Offer,
    OfferGone,
    Order,
    Refused,
    Requirements,
    SearchRules,
    Unavailable,
)


class Several:
    """The calls of several markets. `problems` has what the last search heard of those left out."""

    def __init__(self, markets: Mapping[str, Market]) -> None:
        self.markets = dict(markets)
        self.problems: dict[str, str] = {}
        # Markets whose account has refused an order, with what they said.
        self._closed: dict[str, AccountRefused] = {}
        self._ordered: dict[str, set[str]] = {name: set() for name in markets}  # labels
        self._lock = threading.Lock()

    def machine_control(self, offer: Offer) -> str:
        return self.markets[offer.market].machine_control(offer)

    def search(self, requirements: Requirements, rules: SearchRules) -> list[Offer]:
        offers: list[Offer] = []
        failures: dict[str, AccountRefused | Unavailable] = {}
        for name, market in self.markets.items():
            try:
                if name in self._closed:
                    raise self._closed[name]
                found = market.search(requirements, rules)
            except (AccountRefused, Unavailable) as error:
                if self._ordered[name] and isinstance(error, Unavailable):
                    raise
                failures[name] = error
            else:
                offers += [replace(offer, market=name) for offer in found]
        self.problems = {name: str(error) for name, error in failures.items()}
        if len(failures) == len(self.markets):
            refused = all(isinstance(error, AccountRefused) for error in failures.values())
            text = "\n".join(f"{name}: {error}" for name, error in failures.items())
            raise AccountRefused(text) if refused else Unavailable(text)
        return offers

    def create(self, offer: Offer, order: Order) -> MachineId:
        name = offer.market
        if name in self._closed:  # it was ranked before that was known
            raise OfferGone(str(self._closed[name]))
        with self._lock:  # before the order, since its answer may be lost
            self._ordered[name].add(order.label)
        try:
            return f"{name}:{self.markets[name].create(offer, order)}"
        except AccountRefused as refusal:
            self._closed[name] = refusal
            if len(self._closed) == len(self.markets):
                raise
            raise Refused(f"{name}: {refusal}") from None  # another market may have an offer

    def instances(self, prefix: str = "") -> list[Instance]:
        """From the markets where a machine with this prefix was ordered; from all if that is not
        known, as for the machines of earlier runs."""
        with self._lock:
            asked = [
                name
                for name, labels in self._ordered.items()
                if prefix and any(label.startswith(prefix) for label in labels)
            ]
        return [
            _named(name, instance)
            for name in asked or self.markets
            for instance in self.markets[name].instances(prefix)
        ]

    def instance(self, id: MachineId) -> Instance | None:
        name, own = self._place(id)
        found = self.markets[name].instance(own)
        return None if found is None else _named(name, found)

    def destroy(self, id: MachineId) -> None:
        name, own = self._place(id)
        self.markets[name].destroy(own)

    def start(self, id: MachineId) -> None:
        name, own = self._place(id)
        self.markets[name].start(own)

    def stop(self, id: MachineId) -> None:
        name, own = self._place(id)
        self.markets[name].stop(own)

    def reboot(self, id: MachineId) -> None:
        name, own = self._place(id)
        self.markets[name].reboot(own)

    def credit(self) -> float | None:
        """Nothing: each market has its own account."""
        return None

    def attach_key(self, id: MachineId, public_key: str) -> None:
        name, own = self._place(id)
        self.markets[name].attach_key(own, public_key)

    def _place(self, id: MachineId) -> tuple[str, str]:
        """The market of a machine, and what that calls it. Raises Refused for another name."""
        name, _, own = str(id).partition(":")
        if name not in self.markets or not own:
            raise Refused(f"{str(id)[:60]}: not a machine of {' or '.join(self.markets)}")
        return name, own


def _named(name: str, instance: Instance) -> Instance:
    """An instance with its market's name, unless its number cannot be read."""
    return replace(instance, id=f"{name}:{instance.id}") if instance.id else instance


def parts(market: Market) -> dict[str, Market]:
    """The markets by their names, of which one alone has none."""
    return market.markets if isinstance(market, Several) else {"": market}


def problems(market: Market) -> dict[str, str]:
    """Which markets the last search has left out, and why."""
    return market.problems if isinstance(market, Several) else {}
