"""One attempt at a job on a machine: everything there, the job watched, everything home."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ablation.machine import ATTEMPT

from . import transport, watch
from .clock import Clock
from .keeper import Keeper
from .offers import Wish
from .rental import Closing, Lost, Machine, Site
from .transport import Damaged, Denied, Failed, NoRoomHere, Transport, Unreachable
from .watch import Limits, Sight

GPU_IDLE = 5  # percent
TRIES = 4  # of a transfer
MOVES = 86400.0  # seconds that a state may take to a bucket; ssh notices a dead machine by itself


@dataclass
class Task:
    """A job, in plain values. Paths are relative to the working directory, or absolute."""

    name: str
    command: str
    environment: dict[str, str]
    inputs: list[str]
    outputs: list[str]  # come home, and must exist
    extras: list[str]  # come home if they exist: logs, benchmarks
    remove: list[str]  # must not be there when the job starts
    wish: Wish
    states: list[str] = field(default_factory=list)  # folders that the job resumes from
    outcome: Outcome | None = None
    ends: Counter = field(default_factory=Counter)  # why attempts ended: how often


@dataclass(frozen=True)
class Outcome:
    """How a job ended for Snakemake: `why` is empty on success."""

    why: str = ""
    output: str = ""  # the end of what it printed
    log: str = ""  # the file that holds all of it


class RuleFailed(Exception):
    """The job ended by itself, not well."""

    def __init__(self, why: str, output: str):
        super().__init__(why)
        self.output = output


@dataclass(frozen=True)
class Pace:
    """How often a state comes home: every max(`every` s, `share` x the last transfer)."""

    every: float = 600.0
    share: float = 10.0


class Attempt:
    """Runs one task on one machine, once. `seconds` and `wasted` tell the ledger what it took."""

    def __init__(
        self,
        task: Task,
        machine: Machine,
        name: str,
        site: Site,
        keeper: Keeper,
        clock: Clock,
        limits: Limits,
        pace: Pace,
        places: dict[str, str],
        closing: threading.Event,
        reattach: Callable[[Machine], None],
        log_file: Path,
    ):
        self.task, self.machine, self.name, self.site = task, machine, name, site
        self.keeper, self.clock, self.limits, self.pace = keeper, clock, limits, pace
        self.places, self.closing, self.reattach = places, closing, reattach
        self.log_file = log_file
        self.folder = f"{site.folder}/{name}"
        self.states = [self._absolute(path) for path in task.states]
        self.began = self.safe = clock.now()  # `safe`: up to here nothing would be lost
        self.ran: float | None = None  # seconds that the job itself took, as the machine tells
        self.tail = ""

    @property
    def seconds(self) -> float:
        return self.clock.now() - self.began

    @property
    def wasted(self) -> float:
        return self.clock.now() - self.safe

    # ---- the whole -----------------------------------------------------------------------------

    def run(self) -> None:
        """Raises RuleFailed (the job's fault), Lost (the machine's) or Closing."""
        self._send()
        request = {
            "command": f"{self.site.activate or ':'} && {self.task.command}",
            "workdir": self.site.workdir,
            "environment": self.task.environment | {ATTEMPT: self.name},
            "inputs": [self._absolute(path) for path in self.task.inputs],
            "outputs": self.task.outputs,
            "extras": self.task.extras,
            "remove": [self._absolute(path) for path in self.task.remove],
            "states": self.states,
        }
        self._steadily(lambda way: way.ask("start", self.folder, request))
        self._fetch(self._watch())

    def end(self) -> None:
        """Stop the job and bring its state home, as far as the machine still answers."""
        try:
            grace = self.clock.real(self.limits.grace)
            way = self.machine.transport
            way.ask("end", self.folder, {"grace": grace}, way.timeout + grace)
            self._carry_home(way)
        except (Unreachable, Failed, ValueError):
            pass

    # ---- there ---------------------------------------------------------------------------------

    def _send(self) -> None:
        held = self.machine.holds
        wanted = {path: stand(path) for path in map(self._absolute, self.task.inputs)}
        new = [path for path, how in wanted.items() if how and held.get(path) != how]
        self._steadily(lambda way: way.push(new))
        held.update({path: wanted[path] for path in new})
        away = [state for state in self.states if self.places.get(state) != self.machine.label]
        if self.site.bucket:
            for state in away:
                self._steadily(partial(self._load, state))
        self._steadily(lambda way: way.push(filter(os.path.isdir, away)))
        self.places.update(dict.fromkeys(away, self.machine.label))

    # ---- meanwhile -----------------------------------------------------------------------------

    def _watch(self) -> dict:
        """Look until the job has ended; what the machine says of its end."""
        now = self.clock.now()
        started = contact = progress = carried = now
        offset, mark, home_mark, took, idle, alert = 0, None, None, 0.0, None, False
        more = False  # output lies there that was not read
        while True:
            label = self.machine.label
            known, instance = self.keeper.find(label, self.machine.rented + 60.0)
            sight = Sight(
                self.clock.now(), started, contact, progress, self.task.wish.seconds,
                instance.status if instance else "running",
                self.keeper.status_since(label), instance is not None or not known, idle, alert,
            )  # fmt: skip
            if why := watch.verdict(sight, self.limits):
                if why in ("overtime", "stalled"):
                    self.end()
                raise Lost(why, f"{sight.now - contact:.0f} s since the last answer")
            pause = 0.0 if more else watch.look_again(sight, self.limits)
            if self.clock.wait(pause, self.closing):
                self.end()
                raise Closing
            seen, more = self._look(offset), False
            if seen is None:
                continue
            contact = self.clock.now()
            if seen["output"] or seen["mark"] != mark:
                progress, mark = contact, seen["mark"]
            if seen["output"]:
                offset += len(seen["output"])
                alert = watch.alarming(self._keep(seen["output"].encode("latin-1")))
            idle = None if seen["gpu"] is None else seen["gpu"] < GPU_IDLE
            if more := len(seen["output"]) >= transport.onboard.CHUNK:
                continue
            if seen["exit"]:
                return seen["exit"]
            if not seen["alive"]:
                raise Lost("killed", "the job is gone and has left no exit code")
            due = watch.carry_home_due(contact, carried, took, self.pace.every, self.pace.share)
            if mark not in (None, home_mark) and due:
                before = self.clock.now()
                try:
                    self._carry_home(self.machine.transport)
                except (Unreachable, Failed, ValueError) as fault:
                    self._keep(f"vast: the state was not saved: {fault}\n".encode())
                    continue
                carried, home_mark = self.clock.now(), mark
                took = carried - before

    def _look(self, offset: int) -> dict | None:
        way = self.machine.transport
        request = {"offset": offset, "states": self.states}
        try:
            return way.ask("look", self.folder, request)
        except Denied:
            self.reattach(self.machine)
        except (Unreachable, Failed, ValueError):
            way.close()  # a connection that hangs would hang again
        return None

    def _keep(self, data: bytes) -> str:
        """Add output to the local log; the text."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "ab") as file:
            file.write(data)
        text = data.decode(errors="replace")
        self.tail = (self.tail + text)[-8000:]
        return text

    # ---- home ----------------------------------------------------------------------------------

    def _fetch(self, exit: dict) -> None:
        self.ran = self.clock.scale * exit["seconds"]
        task = self.task
        if exit["code"] or exit["missing"]:
            self._steadily(lambda way: way.pull(map(self._absolute, task.extras)))
            self._steadily(self._carry_home)
            missing = f"did not make {', '.join(exit['missing'])}"
            why = f"exit code {exit['code']}" if exit["code"] else missing
            raise RuleFailed(why, self.tail)
        home = [self._absolute(path) for path in [*task.outputs, *task.extras]]

        def fetch(way):
            way.pull(home)
            transport.verify(exit["files"], self.site.workdir)

        self._steadily(fetch)
        self.machine.holds.update({path: stand(path) for path in home})
        self._steadily(lambda way: self._carry_home(way, over=True))
        self.safe = self.clock.now()

    def _carry_home(self, way: Transport, over: bool = False) -> None:
        """Save the states. When all is `over`, what the job has removed goes from there as well."""
        before = self.clock.now()
        bring = partial(self._save, way) if self.site.bucket else None
        for state in self.states:
            if not carry_home(way, self.folder, state, bring) and over:
                shutil.rmtree(state, ignore_errors=True)
                if self.site.bucket:
                    self._bucket(way, "drop", state)
        if self.states:
            self.safe = before

    # ---- a bucket ------------------------------------------------------------------------------

    def _load(self, state: str, way: Transport) -> None:
        try:
            self._bucket(way, "load", state)
        except Failed as fault:  # another machine would find the bucket as closed as this one
            raise RuleFailed(f"{self.site.bucket} cannot be read", str(fault)) from None

    def _save(self, way: Transport, copy: str, state: str, parts: list[str]) -> None:
        self._bucket(way, "save", state, copy=copy)
        shutil.rmtree(state, ignore_errors=True)  # what `ablation reap` may have left is older now

    def _bucket(self, way: Transport, what: str, state: str, **more: str) -> None:
        """Let the machine move a state; what opens the bucket goes by its input."""
        place = os.path.relpath(state, self.site.workdir)
        request = {"uri": f"{self.site.bucket}/{place}", "state": state, **more}
        request["environment"] = self.site.access
        script = shlex.quote(f"{self.site.folder}/bucket.py")
        text = f"cd {shlex.quote(self.site.workdir)} && {self.site.activate or ':'} && "
        way.command(f"{text}python {script} {what}", json.dumps(request), MOVES)

    # ---- both ----------------------------------------------------------------------------------

    def _absolute(self, path: str) -> str:
        return os.path.normpath(os.path.join(self.site.workdir, path))

    def _steadily(self, step: Callable):
        """Repeat what the network may break, as long as the machine may still be there."""
        problem: Exception | None = None
        for n in range(TRIES):
            if n and self.clock.wait(self.limits.silent / TRIES / 2, self.closing):
                raise Closing
            try:
                return step(self.machine.transport)
            except Denied as fault:
                self.reattach(self.machine)
                problem = fault
            except NoRoomHere as fault:
                raise RuleFailed(str(fault), "") from None
            except Failed as fault:
                if "No space left" in str(fault):
                    raise RuleFailed(str(fault), str(fault)) from None
                problem = fault
            except (Unreachable, Damaged, ValueError) as fault:
                self.machine.transport.close()
                problem = fault
            known, instance = self.keeper.find(self.machine.label, self.machine.rented + 60.0)
            if known and (instance is None or instance.status == "stopped"):
                break
        raise Lost("transfer", str(problem))


def carry_home(way: Transport, folder: str, state: str, bring: Callable | None = None) -> bool:
    """Bring a state here, if there is one. What is here already never goes without another."""
    taken = way.ask("snapshot", folder, {"state": state}, 4 * way.timeout)
    if taken["there"]:
        copy = f"{state.rstrip('/')}.home"
        (bring or way.pull_state)(copy, state, taken["parts"])
        way.command(f"rm -rf {shlex.quote(copy)}")  # links hold the space of what is removed
    return taken["there"]


def stand(path: str) -> tuple | None:
    """What tells whether a file, or what a folder holds, is still the same; None: not there."""
    try:
        if not os.path.isdir(path):
            facts = os.stat(path)
            return (facts.st_size, facts.st_mtime_ns)
    except OSError:
        return None
    below = []
    for folder, _, names in os.walk(path):
        for name in names:
            if (facts := stand(os.path.join(folder, name))) is not None:
                below.append((os.path.join(folder, name), *facts))
    return tuple(sorted(below))
