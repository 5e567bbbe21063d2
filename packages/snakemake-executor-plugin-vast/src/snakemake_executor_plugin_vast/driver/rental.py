"""Rents a machine for a job's requirements and prepares it for its first job."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ..clock import Clock
from ..machine.transport import Denied, Failed, Keyring, Transport, Unreachable
from ..market import selection
from ..market.protocol import (
    AccountRefused,
    Instance,
    LostReply,
    MachineId,
    Market,
    MarketError,
    Offer,
    OfferGone,
    Order,
    Refused,
    Requirements,
    SearchRules,
    Unavailable,
)
from ..money import ledger as books
from .endings import Closing, Lost, NothingToRent, OverBudget
from .keeper import EVERY, Keeper
from .machines import Machine, Site, rsync_installed, start_script
from .switch import await_armed, keep_lease
from .waking import WAKING
from .watch import Limits

BOOTS = 6  # machines that may fail to start for one job
ROUNDS = 10  # searches that may find nothing, a minute apart
MINUTE = 60.0


class Renter:
    """Searches offers, rents machines within the budget and prepares them."""

    def __init__(
        self,
        market: Market,
        keeper: Keeper,
        ledger: books.Ledger,
        clock: Clock,
        keys: Keyring,
        site: Site,
        rules: SearchRules,
        limits: Limits,
        budget: float | None,
        closing: threading.Event,
        log: Callable[[str], None],
        barred: Callable[[], str] = str,
    ) -> None:
        self.market, self.keeper, self.ledger = market, keeper, ledger
        self.clock, self.keys, self.site = clock, keys, site
        self.rules, self.limits, self.budget = rules, limits, budget
        self.closing, self.log, self._barred = closing, log, barred
        self.machines: dict[str, Machine] = {}
        self._why: dict[str, str] = {}
        self._used: set[int] = set()
        self._bad: set[int] = books.bad_machines(books.read(ledger.path), clock.wall())
        self._slots, self._one_at_a_time, self._refusal = 0, threading.Lock(), ""
        self._budget_lock = threading.Lock()  # from the check of the budget to the ledger line
        keeper.ended, keeper.halted = self._ended, self._halted

    # ---- renting -----------------------------------------------------------------------------

    def rent(self, requirements: Requirements, slot: int) -> Machine:
        """A machine that is ready for a job. Raises NothingToRent, OverBudget or Closing."""
        problem = ""
        for _ in range(BOOTS):
            machine = self._contract(requirements, slot)
            try:
                self._bring_up(machine)
                return machine
            except Lost as lost:
                problem = str(lost)
                self.log(f"{machine.label}: {problem}; another machine")
                self._used.add(machine.offer.id)
                self.end(machine, lost.why)
            except BaseException:
                self.end(machine, "ended")
                raise
        raise NothingToRent(f"{BOOTS} machines did not start; the last one: {problem}")

    def _contract(self, requirements: Requirements, slot: int) -> Machine:
        found, self._refusal = 0, ""
        for _ in range(ROUNDS):
            with self._one_at_a_time:  # two orders of one offer are both accepted, and one fails
                if barred := self._barred():
                    raise NothingToRent(barred)
                try:
                    listed = self.market.search(requirements, self.rules)
                except Unavailable as error:
                    self.log(f"search: {error}")
                    listed = []
                except MarketError as error:
                    raise NothingToRent(str(error)) from None
                found = max(found, len(listed))
                for offer in selection.rank(
                    listed, requirements, self.rules, self._used, self._bad
                ):
                    self._check_open()
                    if machine := self._take(offer, requirements, slot):
                        return machine
                if self._refusal:
                    raise NothingToRent(self._refusal)
                self._used.clear()  # all were tried: those still offered can be rented again
            if self.closing.is_set() or self.clock.wait(MINUTE, self.closing):
                raise Closing
        raise NothingToRent(
            f"no offer meets {requirements} ({found} listed, {len(self._bad)} machines avoided). "
            "Allow a higher price, other GPUs or more regions."
        )

    def _take(self, offer: Offer, requirements: Requirements, slot: int) -> Machine | None:
        """Rent `offer`; None if that is not possible."""
        self._slots += 1
        label = f"{self.keeper.prefix}{slot}-{self._slots}"
        price = selection.hourly(offer, requirements, self.rules)
        seconds = requirements.seconds + self.limits.boot + self.limits.setup
        key, control = self.keys.public, self.market.machine_control(offer)
        try:
            script = start_script(self.site, key, control, self.clock, self.limits.grace)
        except ValueError as error:
            raise NothingToRent(str(error)) from None
        bid = selection.bid(offer, requirements, self.rules)
        site = self.site
        order = Order(label, site.image, requirements.disk_gb, script, bid, site.workdir)
        with self._budget_lock:
            self.check_budget(books.cost(price, seconds))
            self.ledger.write(
                "intend", label=label, offer=offer.id, machine=offer.machine_id, dph=price,
                gpu=f"{offer.gpus}x {offer.gpu_name}", interruptible=requirements.interruptible,
                seconds=seconds, market=offer.market or site.market,
            )  # fmt: skip
        machine = Machine(label, offer, requirements, price, self.clock.now())
        self.machines[label] = machine
        if not offer.many:
            self._used.add(offer.id)
        self.keeper.want(label)
        try:
            machine.id = self._create(offer, order)
            self.keeper.know(label, machine.id)
            self.ledger.write("rent", label=label, instance=machine.id, dph=price)
        except OfferGone:
            self.end(machine, "taken", rented=False)
            return None
        except MarketError as error:
            self._refusal = str(error) if isinstance(error, Refused) else ""
            self.log(f"{label}: {error}")
            self.end(machine, "refused", rented=False)
            if isinstance(error, AccountRefused):  # no other offer would be accepted either
                raise NothingToRent(self._refusal) from None
            return None
        except BaseException:
            self.end(machine, "ended")
            raise
        kind = "interruptible" if requirements.interruptible else "on demand"
        place = f" in {offer.location}" if offer.location else ""
        place += f" of {offer.market}" if offer.market else ""
        self.log(f"{label}: {offer.gpus}x {offer.gpu_name}{place}, ${price:.3f}/h, {kind}")
        return machine

    def _create(self, offer: Offer, order: Order) -> MachineId:
        """Order a machine once. After a lost reply, wait until the list shows whether it exists."""
        label = order.label
        for _ in range(4):
            sent = self.clock.now()
            try:
                return self.market.create(offer, order)
            except Unavailable as error:  # nothing was rented
                self.log(f"{label}: {error}")
                self._check_open()
            except LostReply as error:
                self.log(f"{label}: {error}; waiting for the list of machines")
                until = sent + 4 * EVERY
                while self.clock.now() < until:
                    self.clock.wait(EVERY / 2)
                    known, instance = self.keeper.find(label, sent)
                    if instance:
                        return instance.id
                    if not known:  # without a list nothing is known
                        until = min(until + EVERY / 2, sent + self.limits.boot)
                    self._check_open()
                raise
        raise Unavailable(f"{label}: the market was unavailable four times")

    def check_budget(self, estimate: float) -> None:
        """Raise OverBudget if `estimate` more dollars could exceed the budget of the run."""
        money = self.money()
        if self.budget is not None and not money.allows(estimate, self.budget):
            raise OverBudget(
                f"budget of ${self.budget:.2f}: ${money.spent:.2f} spent, ${money.committed:.2f} "
                f"reserved for running jobs, ${estimate:.2f} more needed"
            )

    def money(self) -> books.Account:
        """What this run has spent and committed."""
        lines = [x for x in books.read(self.ledger.path) if x["run"] == self.ledger.run]
        return books.account(lines, self.clock.wall(), self.clock.scale)

    def well(self, machine: Machine) -> bool:
        """Whether the market lists the machine as running."""
        _, instance = self.keeper.find(machine.label, machine.rented)
        return instance is not None and instance.status == "running"

    def promise(self, machine: Machine, seconds: float) -> None:
        """Write to the ledger how long the machine's jobs may still take. Raises OverBudget."""
        lived = self.clock.now() - machine.rented
        facts = {"label": machine.label, "lived": lived}
        with self._budget_lock:
            self.ledger.write("promise", seconds=0, **facts)
            if seconds:
                self.check_budget(books.cost(machine.price, seconds))
                self.ledger.write("promise", seconds=seconds, **facts)

    # ---- preparing a machine -----------------------------------------------------------------

    def _bring_up(self, machine: Machine) -> None:
        until = machine.rented + self.limits.boot
        self.reattach(machine)  # a market may later remove keys that only the start script added
        instance = self._wait_running(machine, until)
        machine.connection = self._wait_ssh(machine, instance, until)
        signs = (partial(self._touch, machine), self.clock, machine.over)
        threading.Thread(target=keep_lease, args=signs, daemon=True).start()
        connection, site = machine.connection, self.site
        folder = f"cd {shlex.quote(site.workdir)}"
        patience = max(30.0, self.clock.real(self.limits.setup))
        try:
            connection.install(site.folder)
            await_armed(connection, site.folder, self.clock, self.closing)
            connection.command(rsync_installed(site.folder), "", patience)
            sources = [f"{site.workdir}/{name}" for name in site.sources()]
            connection.push(sources, machine.requirements.disk_gb * 1e9)
            for command in site.setup:
                connection.command(f"{folder} && {{ {command}\n}}", "", patience)
        except (Unreachable, Failed) as error:
            raise Lost("setup", str(error)) from None
        try:
            if site.smoke:
                connection.command(
                    f"{folder} && {site.activate or ':'} && {site.smoke}",
                    "",
                    max(10.0, self.clock.real(300.0)),
                )
        except (Unreachable, Failed) as error:
            raise Lost("smoke", str(error)) from None
        self._check_open()

    def _wait_running(self, machine: Machine, until: float) -> Instance:
        while True:
            known, instance = self.keeper.find(machine.label, machine.rented)
            if instance:
                transfers = selection.transfers(machine.offer, machine.requirements)
                rent = machine.price - transfers
                if wrong := selection.contract_error(instance, machine.requirements, rent):
                    raise Lost("contract", wrong)
                if instance.price > rent:
                    machine.price = instance.price + transfers
                    facts = {"label": machine.label, "instance": machine.id}
                    self.ledger.write("rent", dph=machine.price, **facts)
                if instance.failed:
                    raise Lost("fatal", instance.message[:200])
                if instance.status in ("offline", "stopped"):
                    raise Lost("boot", f"{instance.status}: {instance.message[:200]}")
                if instance.status == "running" and instance.addresses:
                    return instance
            elif known and self.clock.now() - machine.rented > 6 * EVERY:
                raise Lost("gone", "the market does not list it")
            if self.clock.now() > until:
                state = instance.status if instance else "not listed"
                raise Lost("boot", f"{state} after {self.limits.boot / 60:.0f} min")
            self._check_open()
            self.clock.wait(2.0, self.closing)

    def _wait_ssh(self, machine: Machine, instance: Instance, until: float) -> Transport:
        """A connection by the first address that works. An unknown ssh key is attached."""
        timeout = max(5.0, self.clock.real(30.0))
        stall = max(30.0, self.clock.real(self.limits.transfer))
        problem, rebooted, halfway = "", False, (self.clock.now() + until) / 2
        while True:
            for address in instance.addresses:
                try:
                    connection = Transport(self.keys, machine.label, address, timeout, stall)
                    connection.command("true")
                    return connection
                except Denied:
                    self.reattach(machine)
                except (Unreachable, Failed) as error:
                    problem = str(error)
                self._check_open()
            if self.clock.now() > until:
                raise Lost("ssh", f"running, but no login: {problem}")
            if not rebooted and self.clock.now() > halfway:
                rebooted = True
                self._try(self.market.reboot, machine.id)
            self.clock.wait(5.0, self.closing)

    def reattach(self, machine: Machine) -> None:
        """Let the ssh key in again."""
        self._try(self.market.attach_key, machine.id, self.keys.public)

    def wake(self, machine: Machine) -> bool:
        """Start a machine again that has stopped itself; whether it answers.

        Its dead-man switch has got no sign of life for a while, as when this computer slept.
        """
        if self.clock.now() - machine.leased <= self.site.silent:
            return False
        machine.leased = self.clock.now()  # one attempt
        self.log(f"{machine.label} had no sign of life and stopped itself: its work is fetched")
        machine.restarted = True
        self._try(self.market.start, machine.id)
        until = self.clock.now() + WAKING
        while not self.well(machine):
            if self.clock.now() > until or self.clock.wait(2.0, self.closing):
                return False
        machine.close()
        self.reattach(machine)
        try:
            instance = self._wait_running(machine, until + self.limits.boot)
            machine.connection = self._wait_ssh(machine, instance, until + self.limits.boot)
        except Lost as lost:
            self.log(f"{machine.label}: {lost}")
            return False
        machine.leased = self.clock.now()
        return True

    def _try(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except MarketError as error:
            self.log(str(error))

    def _touch(self, machine: Machine) -> None:
        sent = self.clock.now()  # this computer may sleep before it has the answer
        machine.connection.touch(f"{self.site.folder}/lease")
        machine.leased = sent

    def _check_open(self) -> None:
        if self.closing.is_set():
            raise Closing

    # ---- the end -----------------------------------------------------------------------------

    def end(
        self, machine: Machine, why: str, rented: bool = True, superseded: bool = False
    ) -> None:
        """End a machine; its line in the ledger follows once the market no longer lists it.

        One with a state that is not saved is stopped, unless this is `superseded`, because the job
        continues on another machine.
        """
        if machine.over.is_set():
            return
        if superseded:
            self.keeper.release(machine.label)
        machine.over.set()
        if why in books.BAD and machine.offer.machine_id:
            self._bad.add(machine.offer.machine_id)
        self._why.setdefault(machine.label, why if rented else f"{why}: never rented")
        self.keeper.unwant(machine.label)
        machine.close()

    def _ended(self, label: str) -> None:
        why = self._why.get(label, "ended")
        machine = self.machines.pop(label, None)
        seconds = dollars = 0.0
        if machine is not None and not why.endswith("never rented"):
            seconds = self.clock.now() - machine.rented
            dollars = books.cost(machine.price, seconds)
        self.ledger.write("end", label=label, seconds=seconds, dollars=dollars, why=why)

    def _halted(self, instance: Instance) -> None:
        """Write to the ledger that a machine with work that is not saved was stopped."""
        machine = self.machines.pop(instance.label, None)
        seconds = self.clock.now() - machine.rented if machine else 0.0
        dollars = books.cost(machine.price, seconds) if machine else 0.0
        self.ledger.write(
            "stop", label=instance.label, instance=instance.id, seconds=seconds, dollars=dollars,
            dph=instance.disk_price,
        )  # fmt: skip

    def settle(self) -> None:
        """Write the end of machines that were never listed. Called after the last list."""
        for label in list(self.machines):
            self._ended(label)


def on_demand(requirements: Requirements) -> Requirements:
    """The same requirements without a bid."""
    return replace(requirements, interruptible=False)
