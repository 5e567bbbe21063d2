"""Runs, and the machines that a killed run leaves. This module needs no Snakemake.

A run has a folder `.snakemake/vast/<run>/` with its ssh key, the label prefix of its machines, the
states that it sent to them, and a lock that its process holds while it lives. After a hard kill the
lock is free and the folder still exists. So the next run, or `snakemake-vast reap`, ends exactly
these machines, and never those of a run that is alive, or of another computer.

A machine whose states cannot be saved is stopped and stays: its run's folder stays as well, so that
every later call tries again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..clock import Clock
from ..machine.transport import Failed, Keyring, Transport, Unreachable
from ..market.protocol import Instance, Market, MarketError
from ..money import ledger as books
from .keeper import Keeper
from .states import Places, save_state
from .switch import keep_lease
from .waking import awake

PLACE = Path(".snakemake/vast")
FACTS, LOCK, STATES = "run.json", "lock", "states.json"
RESCUE = 7200.0  # seconds that saving the states of a killed run may take
# How often to try that, 20 seconds apart. A machine that was started may have to install its ssh
# server first.
TRIES, TRIES_AFTER_START = 3, 30


@dataclass
class Left:
    """What `reap` has left: true if that is anything."""

    listed: list[str] = field(default_factory=list)  # labels of machines that may be billed
    stopped: list[Instance] = field(default_factory=list)  # only their disks are billed
    found: set[str] = field(default_factory=set)  # the ids of all machines of killed runs
    problems: list[str] = field(default_factory=list)  # of runs whose machines may be left

    def __bool__(self) -> bool:
        return bool(self.listed or self.stopped or self.problems)


def dollars_a_day(stopped: Iterable[Instance]) -> float:
    """What the disks of stopped machines cost."""
    return 24 * sum(machine.disk_price for machine in stopped)


def next_steps(stopped: Iterable[Instance]) -> list[str]:
    """A message for each machine that was stopped because its work is not saved."""
    return [
        f"{machine.label} (machine {machine.id}) is stopped, since its work could not be saved. "
        f"Its disk costs ${dollars_a_day([machine]):.2f} a day. `snakemake-vast reap` tries again, "
        f"and `snakemake-vast reap --destroy {machine.id}` destroys the machine with its work."
        for machine in stopped
    ]


class Run:
    """The run of this process: the prefix of its machines' labels, its folder and its lock."""

    def __init__(self, workdir: Path, ledger: Path, market: str, scale: float) -> None:
        self.name = secrets.token_hex(4)
        project = re.sub(r"[^a-z0-9]+", "-", workdir.name.lower()).strip("-")[:24] or "project"
        self.prefix = f"{project}-{self.name}-"
        self.folder = workdir / PLACE / self.name
        self.folder.mkdir(parents=True, mode=0o700)
        self._lock = open(self.folder / LOCK, "wb")  # noqa: SIM115 (held while the process lives)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        facts: dict[str, Any] = {
            "prefix": self.prefix,
            "ledger": str(ledger),
            "workdir": str(workdir),
        }
        facts |= {"market": market, "scale": scale}
        (self.folder / FACTS).write_text(json.dumps(facts), "utf-8")

    def over(self, left: Collection[str]) -> None:
        """End the run. Its folder stays for the next one if machines are `left`."""
        if not left:
            forget(self.folder)
        self._lock.close()


def forget(folder: Path) -> None:
    """Remove the files that a run needs while it has machines, and parts of cut-off transfers."""
    for arrivals in (folder.parent / "jobs").glob(f"{folder.name}-*"):
        shutil.rmtree(arrivals, ignore_errors=True)
    for name in (FACTS, STATES, "key", "key.pub", "known_hosts", "known_hosts.old", LOCK):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def dead_runs(workdir: Path) -> list[Path]:
    """Folders of runs that were killed, and whose machines no other process ends now."""
    found = []
    for facts in sorted((workdir / PLACE).glob(f"*/{FACTS}")):
        with _locked(facts.parent) as dead:
            found += [facts.parent] if dead else []
    return found


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a run; false if another process does: its own, or one that ends it."""
    with ExitStack() as stack:
        dead = False
        with suppress(OSError):
            lock = stack.enter_context(open(folder / LOCK, "ab"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead = (folder / FACTS).is_file()  # another process may have ended the run meanwhile
        yield dead


def stopped_machines(workdir: Path, market: Market) -> list[Instance]:
    """The machines of killed runs that are stopped now; only their disks are billed."""
    found = []
    for folder in dead_runs(workdir):
        prefix = json.loads((folder / FACTS).read_text("utf-8"))["prefix"]
        found += [i for i in market.instances(prefix) if i.status == "stopped"]
    return found


def reap(
    workdir: Path,
    connect: Callable[[str], Market],
    log: Callable[[str], None],
    patience: float = 600.0,
    give_up: Collection[str] = (),
) -> Left:
    """Save the states of killed runs and end their machines; the machines that are left.

    A machine whose states cannot be saved is stopped and not destroyed, unless `give_up` has its
    id. `connect` returns the market of a name and is called only if there may be machines. An error
    in one run, such as a damaged ledger, keeps no machine alive.
    """
    left = Left()
    for folder in dead_runs(workdir):
        try:
            with _locked(folder) as dead:
                if dead:
                    _reap(folder, connect, log, patience, give_up, left)
        except Exception as error:
            known = isinstance(error, (MarketError, ValueError))  # with a message for people
            left.problems.append(f"{folder}: {error if known else repr(error)}")
    return left


def _reap(
    folder: Path,
    connect: Callable[[str], Market],
    log: Callable[[str], None],
    patience: float,
    give_up: Collection[str],
    all_left: Left,
) -> None:
    """End the machines of one killed run; add those that are left. Its folder stays for these."""
    facts = json.loads((folder / FACTS).read_text("utf-8"))
    clock = Clock(facts["scale"])
    ledger = books.Ledger(Path(facts["ledger"]), folder.name, clock.wall)
    lines, damage, complete = [], None, ledger.path.is_file()
    try:
        lines = books.read(ledger.path)
    except (OSError, ValueError) as error:
        damage, complete = error, False
    mine = [line for line in lines if line["run"] == folder.name]
    rented = {rental.label: rental for rental in books.open_rentals(mine)}
    left: list[str] = []
    stopped: dict[str, Instance] = {}
    # The key is made before the first rental.
    if rented or not complete and (folder / "key").is_file():
        keeper = Keeper(connect(facts.get("market", "vast")), facts["prefix"], clock)
        for label in _with_work(folder, rented.values(), keeper):
            keeper.hold(label)
        for rental in rented.values():
            if rental.instance is not None:
                keeper.know(rental.label, rental.instance)
            if str(rental.instance) in give_up:
                keeper.release(rental.label)
            keeper.unwant(rental.label)
        began = clock.wall()
        try:
            _rescue(keeper, folder, Path(facts["workdir"]), clock, log, give_up)
        except Exception as error:  # this costs work; machines that are left would cost money
            log(f"run {folder.name}: states were not saved: {type(error).__name__}: {error}")
        left, stopped = keeper.end_all(patience), keeper.stopped
        all_left.listed += left
        all_left.stopped += stopped.values()
        all_left.found |= {str(id) for id in keeper.ids}
        if left:
            log(f"run {folder.name}: machines may be left: {keeper.failed}")
        ended = [label for label in keeper.seen if label not in (*left, *stopped)]
        log(f"run {folder.name} was killed: {len(ended)} machines ended {' '.join(ended)}")
        for rental in rented.values():
            if rental.label in left:
                continue
            seconds, dollars = rental.lived(began, clock.scale), rental.spent(began, clock.scale)
            if rental.label in keeper.seen:
                now = (clock.wall() - began) * clock.scale  # it may have run to save its states
                seconds, dollars = seconds + now, dollars + books.cost(rental.dph, now)
            elif rental.disk is None:  # it was ordered, and never listed
                seconds = dollars = 0.0
            sums = {"label": rental.label, "seconds": seconds, "dollars": dollars}
            if machine := stopped.get(rental.label):
                ledger.write("stop", instance=machine.id, dph=machine.disk_price, **sums)
            else:
                ledger.write("end", why="driver killed", **sums)
    if damage:
        raise damage
    if not left and not stopped:
        forget(folder)


def _with_work(folder: Path, rented: Iterable[books.Rental], keeper: Keeper) -> set[str]:
    """The labels of machines that may have work which is not saved.

    They have the newest version of a state, or an earlier call has stopped them for that.
    """
    rented = list(rented)
    try:
        states = Places(folder / STATES).labels
    except Exception:  # it may be any of them, also of those that a damaged ledger lacks
        return {rental.label for rental in rented} | {m.label for m in keeper.current()}
    return states | {rental.label for rental in rented if rental.disk is not None}


def _rescue(
    keeper: Keeper,
    folder: Path,
    workdir: Path,
    clock: Clock,
    log: Callable[[str], None],
    give_up: Collection[str] = (),
) -> None:
    """Save the states of the run, from all machines at the same time, and release these machines.

    A machine may write only the states here that the run sent to it, and has RESCUE seconds.
    Nothing is saved from machines whose ids are in `give_up`.
    """
    machines = keeper.current()
    for instance in machines:
        if instance.id:
            keeper.know(instance.label, instance.id)
        if str(instance.id) in give_up:
            keeper.release(instance.label)
    if not (folder / "key").is_file():
        return
    places, keys = Places(folder / STATES), Keyring(folder)

    def save_all(instance: Instance, states: dict[str, float]) -> None:
        try:
            running = awake(keeper.market, instance, clock)
            if running is None:
                log(f"{instance.label}: the machine does not run, so no state could be saved")
                return
            try:  # the market may have removed the key since
                keeper.market.attach_key(running.id, keys.public)
            except MarketError as error:
                log(f"{instance.label}: {error}")
            timeout = max(5.0, clock.real(30.0))
            connects = [
                partial(Transport, keys, instance.label, address, timeout)
                for address in running.addresses
            ]
            jobs = f"{workdir}/{PLACE}/jobs"
            tries = TRIES if instance.status == "running" else TRIES_AFTER_START
            if any(_save_all(make, jobs, states, clock, log, tries) for make in connects):
                places.forget(states)
                keeper.release(instance.label)
            else:
                log(f"{instance.label}: no state could be saved")
        except Exception as error:
            log(f"{instance.label}: {type(error).__name__}: {error}")

    try:
        threads = [
            threading.Thread(target=save_all, args=(instance, states), daemon=True)
            for instance in machines
            if str(instance.id) not in give_up and (states := places.at(instance.label))
        ]
        for thread in threads:
            thread.start()
        until = time.monotonic() + clock.real(RESCUE)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
    finally:
        keys.forget()


def _save_all(
    connect: Callable[[], Transport],
    jobs: str,
    states: dict[str, float],
    clock: Clock,
    log: Callable[[str], None],
    tries: int,
) -> bool:
    """Save these states from a machine; whether that succeeded."""
    for left in reversed(range(tries)):
        try:
            with closing(connect()) as connection, _signs_of_life(connection, jobs, clock):
                for state, most in states.items():
                    if save_state(connection, f"{jobs}/x", state, most):
                        log(f"saved {os.path.relpath(state)}")
            return True
        except (Unreachable, Failed, ValueError) as error:
            log(str(error))
            if left:
                clock.wait(20.0)
    return False


@contextmanager
def _signs_of_life(connection: Transport, jobs: str, clock: Clock) -> Iterator[None]:
    """Keep the dead-man switch of a machine from stopping it meanwhile."""
    over = threading.Event()
    signs = (partial(connection.touch, f"{jobs}/lease"), clock, over)
    threading.Thread(target=keep_lease, args=signs, daemon=True).start()
    try:
        yield
    finally:
        over.set()
