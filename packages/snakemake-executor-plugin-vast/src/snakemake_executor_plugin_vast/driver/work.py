"""One attempt at a job on a machine: sends its inputs, watches it and returns its outputs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..clock import Clock
from ..machine.files import Damaged, accept, links_out
from ..machine.onboard import CHUNK, files_below
from ..machine.transport import (
    Denied,
    Failed,
    NoRoomHere,
    TooMuch,
    Transport,
    Unreachable,
)
from ..terminal import make_printable
from . import switch, watch
from .endings import Closing, Lost
from .job_log import JobLog
from .keeper import Keeper
from .machines import Machine, Site
from .report import checked_report, failure
from .states import Places, save_state
from .task import RuleFailed, Task
from .watch import Limits, Observation

T = TypeVar("T")
Signature = tuple[Any, ...]

GPU_IDLE = 5  # percent
TRIES = 4  # of a transfer
BUCKET_TIME = 86400.0  # seconds for one transfer of a state; ssh notices a dead machine by itself


@dataclass(frozen=True)
class Pace:
    """How often a state is saved: every max(`every` s, `share` x the last transfer's time)."""

    every: float = 600.0
    share: float = 10.0


class Attempt:
    """Runs one task on one machine, once. `seconds` and `wasted` are for the ledger."""

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
        places: Places,
        closing: threading.Event,
        reattach: Callable[[Machine], None],
        log_file: Path,
        wake: Callable[[Machine], bool] = lambda machine: False,
    ) -> None:
        self.task, self.machine, self.name, self.site = task, machine, name, site
        self.keeper, self.clock, self.limits, self.pace = keeper, clock, limits, pace
        self.places, self.closing, self.reattach = places, closing, reattach
        self.log_file, self.wake = log_file, wake
        self.output = JobLog(log_file, limits.output)
        self.folder = f"{site.folder}/{name}"
        self.states = [self._absolute(path) for path in task.states]
        self.began = self.safe = clock.now()  # `safe`: work up to this time is saved
        self.most = task.requirements.disk_gb * 1e9 + limits.margin  # bytes that may come home
        self.links: list[str] = []  # in the job's outputs; they stay on the machine
        self.ran: float | None = None  # seconds of the job itself, measured on the machine

    @property
    def tail(self) -> str:
        """The end of what the job has printed."""
        return self.output.tail

    @property
    def seconds(self) -> float:
        return self.clock.now() - self.began

    @property
    def wasted(self) -> float:
        return self.clock.now() - self.safe

    # ---- start and end -------------------------------------------------------------------------

    def run(self) -> None:
        """Run the job to its end.

        Raises RuleFailed if the job fails, Lost if the machine fails, and Closing.
        """
        self._send()
        request = {
            "command": f"{self.site.activate or ':'} && {self.task.command}",
            "workdir": self.site.workdir,
            "environment": self.task.environment | dict(self.site.job_environment(self.name)),
            "inputs": [self._absolute(path) for path in self.task.inputs],
            "outputs": self.task.outputs,
            "extras": self.task.extras,
            "remove": [self._absolute(path) for path in self.task.remove],
            "states": self.states,
        }
        if self.states:
            self.keeper.hold(self.machine.label)
        self._retry(lambda connection: connection.ask("start", self.folder, request))
        self._fetch(self._watch())

    def end(self) -> None:
        """Stop the job and save its state, if the machine still answers."""
        try:
            grace = self.clock.real(self.limits.grace)
            connection = self.machine.connection
            connection.ask("end", self.folder, {"grace": grace}, connection.timeout + grace)
            self._save_states(connection)
            self.keeper.release(self.machine.label)
        except (Unreachable, Failed, ValueError):
            pass

    # ---- inputs --------------------------------------------------------------------------------

    def _send(self) -> None:
        """Copy changed inputs to the machine, and states that are newer elsewhere."""
        for name in [*self.task.inputs, *self.task.states]:
            for path in links_out(self._absolute(name)):
                link = shlex.quote(os.path.relpath(path, self.site.workdir))
                raise RuleFailed(
                    f"{name}: {link} is a link that leads out of it, and links are not followed to "
                    "machines. Put a copy in its place: "
                    f"cp -rL {link} {link}.copy && rm {link} && mv {link}.copy {link}",
                    "",
                )
        held = self.machine.holds
        wanted = {path: file_signature(path) for path in map(self._absolute, self.task.inputs)}
        new = [path for path, how in wanted.items() if how and held.get(path) != how]
        self._retry(lambda connection: connection.push(new, self.most))
        held.update({path: wanted[path] for path in new})
        away = [state for state in self.states if self.places.of(state) != self.machine.label]
        if self.site.bucket:
            for state in away:
                self._retry(partial(self._load, state))
        self._retry(lambda connection: connection.push(filter(os.path.isdir, away), self.most))
        self.places.note(away, self.machine.label, self.most)

    # ---- watching ------------------------------------------------------------------------------

    def _watch(self) -> dict[str, Any]:
        """Check the job until it has ended; the machine's record of its exit."""
        now = self.clock.now()
        started = contact = progress = saved = checked = now
        silence = 0.0  # seconds of looks since the last answer, with the pauses before them
        woken = False  # whether the machine was started again
        disarmed = 0  # successive checks that found no armed switch
        offset, took, alert = 0, 0.0, False
        mark: str | None = None
        saved_mark: str | None = None
        idle: bool | None = None
        more = False  # whether there is output that was not read yet
        while True:
            label = self.machine.label
            known, instance = self.keeper.find(label, self.machine.rented + 60.0)
            now = self.clock.now()
            observation = Observation(
                now, started, contact, progress, self.task.requirements.seconds,
                instance.status if instance else "running",
                self.keeper.status_since(label), instance is not None or not known, idle, alert,
                now - contact - silence,
            )  # fmt: skip
            if why := watch.failure_reason(observation, self.limits):
                if why == "outbid" and self.wake(self.machine):
                    contact, silence, woken = self.clock.now(), 0.0, True
                    continue
                if why in ("overtime", "stalled"):
                    self.end()
                raise Lost(why, f"{now - contact:.0f} s since the last answer")
            pause = 0.0 if more else watch.seconds_to_next_look(observation, self.limits)
            before = self.clock.awake()
            if self.clock.wait(pause, self.closing):
                self.end()
                raise Closing
            seen, more = self._look(offset), False
            if seen is None:
                # A stop of this process by Ctrl-Z cannot be told from a long look, so one look
                # counts at most half of what ends an attempt, and another follows.
                silence += min(self.clock.awake() - before, self.limits.silent / 2)
                continue
            contact, silence = self.clock.now(), 0.0
            if seen["output"] or seen["mark"] != mark:
                progress, mark = contact, seen["mark"]
            if seen["output"]:
                offset += len(seen["output"])
                alert = watch.alarming(self.output.add(seen["output"].encode("latin-1")))
            idle = None if seen["gpu"] is None else seen["gpu"] < GPU_IDLE
            if self.output.full:  # only its end is still read
                offset = max(offset, seen["size"] - CHUNK)
            elif more := len(seen["output"]) >= CHUNK:
                continue
            if seen["exit"]:
                if offset < seen["size"] and (end := self._look(offset)):  # where errors are
                    self.output.add(end["output"].encode("latin-1"))
                done: dict[str, Any] = seen["exit"]
                return done
            if not seen["alive"] or woken:  # after a restart another process may have its number
                self._retry(self._save_states)
                raise Lost("killed", "the job is gone and has left no exit code")
            if contact - checked > self.limits.armed:
                checked = contact
                armed, fault = switch.fault(self.machine.connection, self.site.folder)
                disarmed = disarmed + 1 if armed is False else 0
                if disarmed > 1:  # one may be a mistake of the market
                    self.end()
                    raise Lost("disarmed", f"the dead-man switch: {fault}")
            due = watch.save_due(contact, saved, took, self.pace.every, self.pace.share)
            if mark not in (None, saved_mark) and due:
                before = self.clock.awake()
                try:
                    self._save_states(self.machine.connection)
                    saved, saved_mark = self.clock.now(), mark
                    took = self.clock.awake() - before
                except TooMuch as error:
                    raise Lost("transfer", str(error)) from None
                except (Unreachable, Failed, ValueError) as error:
                    self.output.add(f"vast: the state was not saved: {error}\n".encode())

    def _look(self, offset: int) -> dict[str, Any] | None:
        """The machine's report on the job; None without an answer."""
        connection = self.machine.connection
        request = {"offset": offset, "states": self.states}
        try:
            return checked_report(connection.ask("look", self.folder, request))
        except TooMuch as error:
            raise Lost("transfer", str(error)) from None
        except Denied:
            self.reattach(self.machine)
        except (Unreachable, Failed, ValueError):
            connection.close()  # a connection that hangs stays so
        return None

    # ---- outputs and states --------------------------------------------------------------------

    def _fetch(self, exit: dict[str, Any]) -> None:
        """Copy the outputs and the states of an ended job. Raises RuleFailed if it failed."""
        self.ran = self.clock.scale * exit["seconds"]
        task = self.task
        if why := failure(exit):
            self._bring_home(task.extras, None)
            self._retry(self._save_states)
            self._let_go()
            raise RuleFailed(why, self.tail)
        self.links = exit["links"]
        returned = self._bring_home([*task.outputs, *task.extras], exit["files"])
        self.machine.holds.update({path: file_signature(path) for path in returned})
        self._retry(lambda connection: self._save_states(connection, over=True))
        self.places.forget(self.states)
        self._let_go()
        self.safe = self.clock.now()

    def _let_go(self) -> None:
        """Let the machine be destroyed, here and by its dead-man switch, since its work is home."""
        self.keeper.release(self.machine.label)
        with suppress(Unreachable, Failed):  # its switch would only stop it
            self.machine.connection.command(f"rm -f {shlex.quote(self.folder)}/exit.json")

    def _bring_home(self, names: list[str], files: dict[str, str] | None) -> list[str]:
        """Copy files here, compare them with their hashes, then move them to their places."""
        paths, arrivals = [self._absolute(name) for name in names], f"{self.folder}.arrivals"

        def fetch(connection: Transport) -> None:
            connection.pull(paths, arrivals, self.most)
            if files is None:  # logs of a job that failed, which Snakemake may print
                make_printable(files_below(arrivals))
            accept(arrivals, paths, files, self.site.workdir)

        try:
            self._retry(fetch)
        finally:
            shutil.rmtree(arrivals, ignore_errors=True)
        return paths

    def _save_states(self, connection: Transport, over: bool = False) -> None:
        """Save the states. After the job is `over`, states that it removed are removed here too."""
        before = self.clock.now()
        bring = partial(self._save, connection) if self.site.bucket else None
        for state in self.states:
            if not save_state(connection, self.folder, state, self.most, bring) and over:
                shutil.rmtree(state, ignore_errors=True)
                if self.site.bucket:
                    self._bucket(connection, "drop", state)
        if self.states:
            self.safe = before

    # ---- a bucket ------------------------------------------------------------------------------

    def _load(self, state: str, connection: Transport) -> None:
        try:
            self._bucket(connection, "load", state)
        except Failed as error:  # another machine could not read it either
            raise RuleFailed(f"{self.site.bucket} cannot be read", str(error)) from None

    def _save(self, connection: Transport, copy: str, state: str) -> None:
        """Save to the bucket what `pull_state` would save here."""
        self._bucket(connection, "save", state, copy=copy)
        shutil.rmtree(state, ignore_errors=True)  # an older state, which `reap` may have saved here

    def _bucket(self, connection: Transport, what: str, state: str, **more: str) -> None:
        """Let the machine transfer a state; the bucket's keys go by stdin."""
        place = os.path.relpath(state, self.site.workdir)
        request = {"uri": f"{self.site.bucket}/{place}", "state": state, **more}
        data = json.dumps(request | {"environment": self.site.access})
        script = shlex.quote(f"{self.site.folder}/bucket.py")
        text = f"cd {shlex.quote(self.site.workdir)} && {self.site.activate or ':'} && "
        connection.command(f"{text}python {script} {what}", data, BUCKET_TIME)

    # ---- helpers -------------------------------------------------------------------------------

    def _absolute(self, path: str) -> str:
        return os.path.normpath(os.path.join(self.site.workdir, path))

    def _retry(self, step: Callable[[Transport], T]) -> T:
        """Repeat a step that a network error interrupts, while the machine may still exist.

        Raises Lost, RuleFailed (a full disk) or Closing.
        """
        problem: Exception | None = None
        for n in range(TRIES):
            if n:
                self.output.add(f"vast: {problem}; it is tried again\n".encode())
                if self.clock.wait(self.limits.silent / TRIES / 2, self.closing):
                    raise Closing
            try:
                return step(self.machine.connection)
            except Denied as error:
                self.reattach(self.machine)
                problem = error
            except TooMuch as error:
                raise Lost("transfer", str(error)) from None
            except NoRoomHere as error:
                raise RuleFailed(str(error), "") from None
            except Failed as error:
                if "No space left" in str(error):
                    raise RuleFailed(str(error), str(error)) from None
                problem = error
            except (Unreachable, Damaged, ValueError) as error:
                self.machine.connection.close()
                problem = error
            known, instance = self.keeper.find(self.machine.label, self.machine.rented + 60.0)
            stopped = instance is not None and instance.status == "stopped"
            if stopped and not self.wake(self.machine) or known and instance is None:
                break
        raise Lost("transfer", str(problem))


def file_signature(path: str) -> Signature | None:
    """A value that changes with a file, or with the files of a folder; None: it does not exist."""
    try:
        if not os.path.isdir(path):
            facts = os.stat(path)
            return (facts.st_size, facts.st_mtime_ns)
    except OSError:
        return None
    below = []
    for folder, _, names in os.walk(path):
        for name in names:
            if (signature := file_signature(os.path.join(folder, name))) is not None:
                below.append((os.path.join(folder, name), *signature))
    return tuple(sorted(below))
