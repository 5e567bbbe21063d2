"""Starts a machine that has stopped, so that the work on it can be saved."""

from __future__ import annotations

import threading

from ..clock import Clock
from ..market.protocol import Instance, Market

WAKING = 600.0  # seconds that a stopped machine may take to start


def awake(
    market: Market, instance: Instance, clock: Clock, closing: threading.Event | None = None
) -> Instance | None:
    """The machine once it runs, None if it does not within WAKING seconds.

    A stopped machine is started. It waits for its GPU if somebody else rents that now.
    """
    found: Instance | None = instance
    if instance.status == "stopped":
        market.start(instance.id)
    until = clock.now() + WAKING
    while found and found.status in ("stopped", "starting") and clock.now() < until:
        if clock.wait(10.0, closing):
            break
        found = market.instance(instance.id)
    return found if found and found.status == "running" else None
