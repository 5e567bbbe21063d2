"""Runs and what they leave behind. Snakemake is not needed here: `ablation reap` uses it alone.

A run keeps a folder `.snakemake/vast/<run>/` with its ssh key, its machines' label prefix, and a
lock that its process holds while it lives. After a hard kill the lock is free and the folder still
there: so the next start, or `ablation reap`, knows whose machines to end, and never touches those
of a run that is alive, or of another computer.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from . import ledger as books
from .api import Instance, Vast, VastError, with_prefix
from .clock import Clock
from .keeper import Keeper
from .transport import Failed, Keyring, Transport, Unreachable
from .work import carry_home

PLACE = Path(".snakemake/vast")
FACTS, LOCK = "run.json", "lock"
WAKING = 600.0  # seconds that a stopped machine may take to start


class Run:
    """This process's run: `prefix` of its machines' labels, its folder, its lock."""

    def __init__(self, workdir: Path, ledger: Path, scale: float):
        self.name = secrets.token_hex(4)
        project = re.sub(r"[^a-z0-9]+", "-", workdir.name.lower()).strip("-")[:24] or "project"
        self.prefix = f"{project}-{self.name}-"
        self.folder = workdir / PLACE / self.name
        self.folder.mkdir(parents=True, mode=0o700)
        self._lock = open(self.folder / LOCK, "w")  # noqa: SIM115 (held as long as the process lives)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        facts = {"prefix": self.prefix, "ledger": str(ledger), "workdir": str(workdir)}
        facts |= {"scale": scale}
        (self.folder / FACTS).write_text(json.dumps(facts))

    def over(self, left: list[str]) -> None:
        """Every machine is gone: forget the key. What is `left` is for the next start."""
        if not left:
            forget(self.folder)
        self._lock.close()


def forget(folder: Path) -> None:
    """Remove what a run needs while machines of it may live; its logs stay."""
    for name in (FACTS, "key", "key.pub", "known_hosts", "known_hosts.old", LOCK):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def dead_runs(workdir: Path) -> list[Path]:
    """Folders of runs that have ended without tidying up."""
    found = []
    for facts in sorted((workdir / PLACE).glob(f"*/{FACTS}")):
        try:
            with open(facts.parent / LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except OSError:
            continue  # its process lives
        found.append(facts.parent)
    return found


def reap(
    workdir: Path,
    api: Callable[[], Vast],
    log: Callable[[str], None],
    patience: float = 600.0,
) -> list[str]:
    """End the machines of dead runs, after bringing their jobs' states home; labels that are left.

    `api` is called only when there may be machines. A ledger that cannot be read keeps none alive:
    its ValueError is raised after their end. Raises VastError.
    """
    left: list[str] = []
    damage: ValueError | None = None
    for folder in dead_runs(workdir):
        facts = json.loads((folder / FACTS).read_text())
        clock = Clock(facts["scale"])
        ledger = books.Ledger(Path(facts["ledger"]), folder.name, clock.wall)
        lines, whole, told = [], True, ledger.path.is_file()
        try:
            lines = books.read(ledger.path)
        except ValueError as fault:
            damage, whole, told = fault, False, False
        mine = [line for line in lines if line["run"] == folder.name]
        rented = {rental.label: rental for rental in books.open_rentals(mine)}
        stay = []
        if rented or not told and (folder / "key").is_file():  # the key is made before all renting
            keeper = Keeper(api(), facts["prefix"], clock)
            _rescue(keeper, folder, Path(facts["workdir"]), clock, log)
            found = sorted(i.label for i in with_prefix(keeper.api.instances(), keeper.prefix))
            log(f"run {folder.name} was killed: {len(found)} machines to end {' '.join(found)}")
            stay = keeper.end_all(patience)
            for rental in rented.values():
                if rental.label in stay:
                    continue
                lived = (clock.wall() - rental.since) * clock.scale
                seconds = lived if rental.label in found else 0.0
                dollars = books.cost(rental.dph, seconds)
                end = {"seconds": seconds, "dollars": dollars, "why": "driver killed"}
                ledger.write("end", label=rental.label, **end)
        left += stay
        if whole and not stay:
            forget(folder)
    if damage:
        raise damage
    return left


def _rescue(
    keeper: Keeper, folder: Path, workdir: Path, clock: Clock, log: Callable[[str], None]
) -> None:
    """Bring home the states of jobs on machines that still answer. Failing costs work, no money."""
    if not (folder / "key").is_file():
        return
    keys = Keyring(folder)
    try:
        for instance in with_prefix(keeper.api.instances(), keeper.prefix):
            try:
                awake = _awake(keeper.api, instance, clock)
            except VastError as fault:  # of this machine; others may have a state as well
                log(f"{instance.label}: {fault}")
                continue
            ways = [
                Transport(keys, awake.label, address, max(5.0, clock.real(30.0)))
                for address in (awake.addresses if awake else ())
            ]
            if not any(_states_home(way, f"{workdir}/{PLACE}/jobs", clock, log) for way in ways):
                log(f"{instance.label}: no state could be saved")
    except VastError as fault:
        log(str(fault))
    finally:
        keys.forget()


def _awake(api: Vast, instance: Instance, clock: Clock) -> Instance | None:
    """The machine, running. One that its dead-man switch has stopped is started once more."""
    found: Instance | None = instance
    if instance.status == "stopped":
        api.start(instance.id)
        until = clock.now() + WAKING
        while clock.now() < until and found and found.status != "running":
            clock.wait(10.0)
            found = api.instance(instance.id)
    return found if found and found.status == "running" else None


def _states_home(
    way: Transport, jobs: str, clock: Clock, log: Callable[[str], None], tries: int = 3
) -> bool:
    """Whether all states that jobs have left on a machine are here now."""
    for left in reversed(range(tries)):
        try:
            for state in filter(None, way.ask("states", f"{jobs}/x", {})["states"]):
                if carry_home(way, f"{jobs}/x", state):
                    log(f"brought home {os.path.relpath(state)}")
            return True
        except (Unreachable, Failed, ValueError) as fault:
            log(f"{way.name}: {fault}")
            if left:
                clock.wait(20.0)  # a machine that has just started lets nobody in at first
        finally:
            way.close()
    return False
