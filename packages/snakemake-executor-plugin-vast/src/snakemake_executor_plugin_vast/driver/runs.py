"""Runs, and the machines that a killed run leaves. This module needs no Snakemake.

A run has a folder `.snakemake/vast/<run>/` with its ssh key, the label prefix of its machines, the
states that it sent to them, and a lock that its process holds while it lives. After a hard kill the
lock is free and the folder still exists. So the next run, or `snakemake-vast reap`, ends exactly
these machines, and never those of a run that is alive, or of another computer.
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
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from ..clock import Clock
from ..machine.transport import Failed, Keyring, Transport, Unreachable
from ..market.protocol import Instance, Market, MarketError
from ..money import ledger as books
from .keeper import Keeper, with_prefix
from .states import Places, save_state

PLACE = Path(".snakemake/vast")
FACTS, LOCK, STATES = "run.json", "lock", "states.json"
WAKING = 600.0  # seconds that a stopped machine may take to start
RESCUE = 7200.0  # seconds that saving the states of a killed run may take


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

    def over(self, left: list[str]) -> None:
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
    """Folders of runs that were killed."""
    found = []
    for facts in sorted((workdir / PLACE).glob(f"*/{FACTS}")):
        try:
            with open(facts.parent / LOCK, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except OSError:
            continue  # its process is alive
        found.append(facts.parent)
    return found


def reap(
    workdir: Path,
    connect: Callable[[str], Market],
    log: Callable[[str], None],
    patience: float = 600.0,
) -> list[str]:
    """Save the states of killed runs and end their machines; the labels that are left.

    `connect` returns the market of a name and is called only if there may be machines. An error in
    one run, such as a damaged ledger, keeps no machine alive: the first is raised at the end.
    """
    left: list[str] = []
    problem: Exception | None = None
    for folder in dead_runs(workdir):
        try:
            left += _reap(folder, connect, log, patience)
        except Exception as error:
            problem = problem or error
    if problem:
        raise problem
    return left


def _reap(
    folder: Path, connect: Callable[[str], Market], log: Callable[[str], None], patience: float
) -> list[str]:
    """End the machines of one killed run; the labels that are left. Its folder stays for these."""
    facts = json.loads((folder / FACTS).read_text("utf-8"))
    clock = Clock(facts["scale"])
    ledger = books.Ledger(Path(facts["ledger"]), folder.name, clock.wall)
    lines, damage, complete = [], None, ledger.path.is_file()
    try:
        lines = books.read(ledger.path)
    except ValueError as error:
        damage, complete = error, False
    mine = [line for line in lines if line["run"] == folder.name]
    rented = {rental.label: rental for rental in books.open_rentals(mine)}
    left: list[str] = []
    # The key is made before the first rental.
    if rented or not complete and (folder / "key").is_file():
        keeper = Keeper(connect(facts.get("market", "vast")), facts["prefix"], clock)
        for rental in rented.values():
            if rental.instance is not None:
                keeper.know(rental.label, rental.instance)
            keeper.unwant(rental.label)
        try:
            _rescue(keeper, folder, Path(facts["workdir"]), clock, log)
        except Exception as error:  # this costs work; machines that are left would cost money
            log(f"run {folder.name}: states were not saved: {type(error).__name__}: {error}")
        left = keeper.end_all(patience)
        if left:
            log(f"run {folder.name}: machines may be left: {keeper.failed}")
        ended = [label for label in keeper.seen if label not in left]
        log(f"run {folder.name} was killed: {len(ended)} machines ended {' '.join(ended)}")
        for rental in rented.values():
            if rental.label in left:
                continue
            lived = (clock.wall() - rental.since) * clock.scale
            seconds = lived if rental.label in keeper.seen else 0.0
            dollars = books.cost(rental.dph, seconds)
            end = {"seconds": seconds, "dollars": dollars, "why": "driver killed"}
            ledger.write("end", label=rental.label, **end)
    if damage:
        raise damage
    if not left:
        forget(folder)
    return left


def _rescue(
    keeper: Keeper, folder: Path, workdir: Path, clock: Clock, log: Callable[[str], None]
) -> None:
    """Save the states of the run on machines that still answer, from all at the same time.

    A machine may write only the states here that the run sent to it. It cannot keep others alive:
    what is not saved after RESCUE seconds is lost.
    """
    if not (folder / "key").is_file():
        return
    places, keys = Places(folder / STATES), Keyring(folder)

    def save_all(instance: Instance, states: dict[str, float]) -> None:
        try:
            awake = _awake(keeper.market, instance, clock)
            if awake:
                try:  # Vast may have removed the key since
                    keeper.market.attach_key(awake.id, keys.public)
                except MarketError as error:
                    log(f"{instance.label}: {error}")
            timeout = max(5.0, clock.real(30.0))
            connects = [
                partial(Transport, keys, instance.label, address, timeout)
                for address in (awake.addresses if awake else ())
            ]
            jobs = f"{workdir}/{PLACE}/jobs"
            if not any(_save_all(make, jobs, states, clock, log) for make in connects):
                log(f"{instance.label}: no state could be saved")
        except Exception as error:
            log(f"{instance.label}: {type(error).__name__}: {error}")

    try:
        threads = [
            threading.Thread(target=save_all, args=(instance, states), daemon=True)
            for instance in with_prefix(keeper.market.instances(), keeper.prefix)
            if (states := places.at(instance.label))
        ]
        for thread in threads:
            thread.start()
        until = time.monotonic() + clock.real(RESCUE)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
    finally:
        keys.forget()


def _awake(market: Market, instance: Instance, clock: Clock) -> Instance | None:
    """The machine if it runs. One that its dead-man switch has stopped is started for that."""
    found: Instance | None = instance
    if instance.status == "stopped":
        market.start(instance.id)
        until = clock.now() + WAKING
        while clock.now() < until and found and found.status != "running":
            clock.wait(10.0)
            found = market.instance(instance.id)
    return found if found and found.status == "running" else None


def _save_all(
    connect: Callable[[], Transport],
    jobs: str,
    states: dict[str, float],
    clock: Clock,
    log: Callable[[str], None],
    tries: int = 3,
) -> bool:
    """Save these states from a machine; whether that succeeded."""
    for left in reversed(range(tries)):
        try:
            with closing(connect()) as connection:
                for state, most in states.items():
                    if save_state(connection, f"{jobs}/x", state, most):
                        log(f"saved {os.path.relpath(state)}")
            return True
        except (Unreachable, Failed, ValueError) as error:
            log(str(error))
            if left:
                clock.wait(20.0)  # a machine that has just started refuses logins at first
    return False
