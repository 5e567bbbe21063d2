"""`make smoke-vast`: rents one cheap GPU of Vast.ai for some minutes and records the answers.

It asks before it rents, destroys the machine whatever happens, says how the answers differ from
`vast_support.contract`, and writes them as fixtures without secrets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from snakemake_executor_plugin_vast.clock import Clock
from snakemake_executor_plugin_vast.driver.keeper import EVERY, Keeper
from snakemake_executor_plugin_vast.driver.machines import Site, start_script
from snakemake_executor_plugin_vast.market import selection, take_secrets, vast
from snakemake_executor_plugin_vast.market.protocol import (
    Instance,
    MarketError,
    Order,
    Requirements,
    SearchRules,
    Status,
)
from snakemake_executor_plugin_vast.money.ledger import cost
from snakemake_executor_plugin_vast.terminal import at_a_terminal, printable

from vast_support.contract import differences, scrubbed

FIXTURES = Path(__file__).parents[1] / "fixtures/vast"
IMAGE = "python:3.12-slim"  # small, and has the Python that the dead-man switch needs
LONGEST = 1200.0  # seconds, after which the machine destroys itself
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # after which the machine is destroyed
GONE = 600.0  # seconds to wait until the machine is no longer listed


class Recorder(vast.Vast):
    """The executor's client, which keeps the latest answer as it came."""

    latest: requests.Response

    def _session(self) -> requests.Session:
        session = super()._session()
        session.hooks["response"] = [self._keep]
        return session

    def _keep(self, reply: requests.Response, *more: Any, **options: Any) -> None:
        self.latest = reply

    def check(self, id: int) -> None:
        """Make the call by which a machine's dead-man switch shows that its key is accepted."""
        self._call("change", "PUT", f"/api/v0/instances/{id}/", {"state": "running"})


class Failed(Exception):
    """The smoke test cannot go on."""


def say(text: object) -> None:
    """Print, unless the terminal is gone: the machine must be destroyed then as well."""
    with contextlib.suppress(OSError):
        print(printable(text), flush=True)


class Smoke:
    """One rental, from the search to the end. `problems` is what was not as expected."""

    def __init__(self, market: Recorder, clock: Clock, folder: Path, cap: float) -> None:
        self.market, self.clock, self.folder = market, clock, folder
        self.label = f"smoke-{secrets.token_hex(4)}"
        # One GB or so is received: the image.
        self.wanted = Requirements(
            disk_gb=10, seconds=LONGEST, max_price=cap / LONGEST * 3600, download_gb=3.0
        )
        self.problems: list[str] = []
        self.id = 0

    def offer(self) -> selection.PricedOffer:
        """The cheapest offer. Raises Failed if there is none."""
        rules = SearchRules()
        offers = selection.rank(self.market.search(self.wanted, rules), self.wanted, rules)
        self.record("search")
        if not offers:
            raise Failed(f"No offer costs at most ${self.wanted.max_price:.2f} per hour.")
        return selection.priced(offers[0], self.wanted, rules)

    def rent(self, offer: selection.PricedOffer) -> None:
        """Rent the machine, record the answers and destroy it. Signals are exceptions here."""
        site = Site("/opt/smoke", IMAGE, (), "", "", list, LONGEST, 0.0, LONGEST)
        control = self.market.machine_control(offer.offer)
        script = start_script(site, "no-key", control, self.clock, 0.0)  # nobody logs in
        keeper = Keeper(self.market, self.label, self.clock)
        keeper.unwant(self.label)
        ordered, self.price = self.clock.now(), offer.price
        try:
            self.id = self.market.create(offer.offer, Order(self.label, IMAGE, 10, script))
            keeper.know(self.label, self.id)
            inside = str(self.market.latest.json().get("instance_api_key"))
            self.record("create")
            self.visit(offer, inside)
        finally:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            if not self.id:  # no answer came, and the list may show the machine some seconds later
                self.clock.wait(4 * EVERY)
            left = keeper.end_all(GONE)
            seconds = self.clock.now() - ordered
            if left:
                self.problems.append(
                    f"The machine {self.label} may be left: {keeper.failed}\nDestroy it at "
                    "https://console.vast.ai/instances/"
                )
            paid = f"{seconds / 60:.1f} minutes at ${self.price:.3f} per hour"
            say(f"At most ${cost(self.price, seconds):.4f} was paid: {paid}.")

    def visit(self, offer: selection.PricedOffer, inside: str) -> None:
        """Make every call that the executor makes. `inside` is the key of the machine."""
        mine = self.wait("running")
        self.record("show")
        self.price = max(self.price, mine.price + offer.transfers)
        rent = offer.price - offer.transfers
        if wrong := selection.contract_error(mine, self.wanted, rent):
            raise Failed(wrong)
        self.with_key(inside, "switch", lambda machine: machine.check(self.id))
        self.market.instances()
        self.record("list")
        self.market.stop(self.id)
        self.record("stop")
        self.wait("stopped")
        self.market.start(self.id)
        self.record("start")
        self.with_key("no-key-of-anybody", "wrong-key", lambda stranger: stranger.instances())
        self.market.destroy(self.id)
        self.record("destroy")

    def with_key(self, key: str, name: str, call: Callable[[Recorder], object]) -> None:
        """Make a call with another key, which may be refused, and record the answer."""
        other = Recorder(key, self.market.url, self.clock)
        with contextlib.suppress(MarketError):
            call(other)
        self.record(name, other)

    def wait(self, status: Status) -> Instance:
        until = self.clock.now() + LONGEST / 2
        while (found := self.market.instance(self.id)) is None or found.status != status:
            if found and found.failed or self.clock.now() > until:
                state = f"{found.status}: {found.message}" if found else "not listed"
                raise Failed(f"The machine was to be {status}, and is {state}")
            self.clock.wait(5.0)
        return found

    def record(self, name: str, market: Recorder | None = None) -> None:
        """Compare the latest answer with the contract, and write it without secrets."""
        reply = (market or self.market).latest
        body = reply.json()
        self.problems += differences(name, reply.status_code, body)
        self.folder.mkdir(parents=True, exist_ok=True)
        fixture = {"status": reply.status_code, "body": scrubbed(name, body)}
        (self.folder / f"{name}.json").write_text(json.dumps(fixture, indent=1) + "\n")


def main() -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(prog="make smoke-vast", description=__doc__)
    parser.add_argument("--cap", type=float, default=0.5, metavar="DOLLARS")
    parser.add_argument("--into", type=Path, default=FIXTURES, metavar="FOLDER")
    parser.add_argument("--time-scale", type=float, default=1.0, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    environment = take_secrets("vast", os.environ)
    key, ask = environment.get("VAST_API_KEY", "").strip(), at_a_terminal()
    if not key or ask is None:
        lacking = "a terminal to ask at" if key else "a key in the variable VAST_API_KEY"
        say(
            f"Nothing was rented: this needs {lacking}.\n"
            "VAST_API_KEY=... make smoke-vast    # keys are made at https://console.vast.ai/manage-keys/"
        )
        return 2
    clock = Clock(chosen.time_scale)
    market = Recorder(key, environment.get("VAST_URL"), clock)
    smoke = Smoke(market, clock, chosen.into, chosen.cap)
    for number in SIGNALS:  # SIGINT too, which a shell in the background ignores
        signal.signal(number, signal.default_int_handler)
    try:
        offer = smoke.offer()
        say(
            f"1x {offer.offer.gpu_name} in {offer.offer.location} costs ${offer.price:.3f} per "
            f"hour. It is rented for at most {LONGEST / 60:.0f} minutes."
        )
        if not yes(ask, f"Rent it for at most ${cost(offer.price, LONGEST):.2f}? [y/N] "):
            say("Nothing was rented: the answer was not yes.")
            return 2
        smoke.rent(offer)
    except (MarketError, Failed, ValueError, KeyboardInterrupt) as error:
        smoke.problems.append(str(error) or "It was interrupted, and is not complete.")
    for problem in smoke.problems:
        say(problem)
    where = f"The answers are in {chosen.into}."
    say(where if smoke.problems else f"All answers are as in the contract. {where}")
    return 1 if smoke.problems else 0


def yes(ask: Callable[[str], str], question: str) -> bool:
    try:
        return ask(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


if __name__ == "__main__":
    sys.exit(main())
