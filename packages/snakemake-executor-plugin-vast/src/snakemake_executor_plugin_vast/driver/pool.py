"""Distributes queued jobs over machines.

Each slot is a thread with at most one machine. It rents one for the first job that waits, keeps it
for later jobs, and returns a job to the queue when its machine is lost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..clock import Clock
from ..money import ledger as books
from . import watch
from .endings import Closing, Lost, NothingToRent, OverBudget
from .keeper import Keeper
from .machines import Machine
from .rental import Renter, on_demand
from .report import listed
from .states import Places
from .task import Outcome, RuleFailed, Task
from .watch import Limits
from .work import Attempt, Pace


class Pool:
    """`submit` returns at once; the task's `outcome` is set when it has ended."""

    def __init__(
        self,
        renter: Renter,
        keeper: Keeper,
        ledger: books.Ledger,
        clock: Clock,
        limits: Limits,
        pace: Pace,
        logs: Path,
        max_machines: int,
        retries: int,
        lost_bids: int,
        closing: threading.Event,
        log: Callable[[str], None],
        places: Places,
    ) -> None:
        self.renter, self.keeper, self.ledger, self.clock = renter, keeper, ledger, clock
        self.limits, self.pace, self.logs, self.max_machines = limits, pace, logs, max_machines
        self.retries, self.lost_bids, self.closing, self.log = retries, lost_bids, closing, log
        self.places = places
        self._waiting: deque[Task] = deque()
        self._idle: dict[int, Machine | None] = {}  # free slots; None: without a machine
        self._slots: dict[int, threading.Thread] = {}
        self._busy: set[int] = set()  # slots that have a machine or are renting one
        self._changed = threading.Condition()
        self._numbers, self._attempts = 0, 0

    def submit(self, task: Task) -> None:
        """Add a task to the queue."""
        with self._changed:
            self._waiting.append(task)
            self._open_slots()
            self._changed.notify_all()

    def close(self) -> None:
        """End jobs, save their states and end the slots, within `limits.farewell` seconds."""
        self.closing.set()
        with self._changed:
            self._changed.notify_all()
            threads = list(self._slots.values())
        until = self.clock.awake() + self.limits.farewell
        for thread in threads:
            thread.join(self.clock.real(until - self.clock.awake()))

    # ---- slots ---------------------------------------------------------------------------------

    def _open_slots(self) -> None:
        """Open a slot for each waiting job that no idle machine can run. Needs the lock."""
        free = list(self._idle.values())
        for task in self._waiting:
            fit = next((m for m in free if m is not None and m.serves(task.requirements)), None)
            if fit is not None or None in free:
                free.remove(fit)
            elif len(self._slots) < self.max_machines:
                self._numbers += 1
                slot, self._idle[self._numbers] = self._numbers, None
                thread = threading.Thread(target=self._work, args=(slot,), daemon=True)
                self._slots[slot] = thread
                thread.start()

    def _take(self, slot: int, machine: Machine | None) -> tuple[Task | None, bool]:
        """The next task or None, and whether the machine can run it."""
        until = self.clock.now() + self.limits.idle
        with self._changed:
            self._idle[slot] = machine
            try:
                while not self.closing.is_set():
                    if task := self._next(machine):
                        self._waiting.remove(task)
                        return task, True
                    if self._waiting and not self._served(self._waiting[0]):
                        return self._waiting.popleft(), False
                    left = until - self.clock.now()
                    if machine is None or left <= 0:
                        break
                    self._changed.wait(self.clock.real(left))
                return None, False
            finally:
                del self._idle[slot]

    def _next(self, machine: Machine | None) -> Task | None:
        """The first task that the machine can run; without one, the first for a new machine."""
        warm = [m for m in self._idle.values() if m is not None]
        for task in self._waiting:
            if machine and machine.serves(task.requirements):
                return task
            if machine is None:
                fit = next((m for m in warm if m.serves(task.requirements)), None)
                if fit is None:
                    return task
                warm.remove(fit)
        return None

    def _served(self, task: Task) -> bool:
        """Whether an idle slot can run the task, or a slot can be opened for it."""
        fit = any(m is None or m.serves(task.requirements) for m in self._idle.values())
        return fit or len(self._slots) < self.max_machines

    def _work(self, slot: int) -> None:
        machine: Machine | None = None
        task: Task | None = None
        reopen = True
        try:
            while True:
                task, fits = self._take(slot, machine)
                if machine and not fits:
                    self.renter.end(machine, "ended" if self.closing.is_set() else "idle")
                    machine = None
                if task is None:
                    return
                self._busy.add(slot)
                try:
                    machine = self._serve(task, machine, slot)
                except (OverBudget, NothingToRent) as error:
                    if machine:  # only with OverBudget
                        self.renter.end(machine, "budget")
                    machine = None
                    with self._changed:
                        self._busy.discard(slot)
                        if self._busy:  # another slot's machine may run it
                            reopen = False
                            self._waiting.append(task)
                            self._changed.notify_all()
                            return
                    task.outcome = Outcome(str(error))
                if machine is None:
                    self._busy.discard(slot)
        except Closing:
            pass
        except Exception as error:  # the job must fail in Snakemake, and its machine end
            self.log(f"slot {slot}: {type(error).__name__}: {error}")
            if task and task.outcome is None:
                task.outcome = Outcome(f"{type(error).__name__}: {error}")
        finally:
            if machine:
                self.renter.end(machine, "ended")
            with self._changed:
                del self._slots[slot]
                self._busy.discard(slot)
                if reopen and not self.closing.is_set():
                    self._open_slots()

    # ---- one task ------------------------------------------------------------------------------

    def _serve(self, task: Task, machine: Machine | None, slot: int) -> Machine | None:
        """Run a task until it has ended or waits again; the machine if it can still be used."""
        if machine and machine.worn:
            self.renter.end(machine, "restarted")
            machine = None
        if machine and not self.renter.well(machine):
            self.renter.end(machine, "outbid" if machine.requirements.interruptible else "gone")
            machine = None
        if machine:
            self.renter.promise(machine, task.requirements.seconds)
        else:
            machine = self.renter.rent(task.requirements, slot)
        try:
            return self._work_at(task, machine)
        except OverBudget:
            self.renter.end(machine, "budget")
            raise
        except BaseException:  # the slot may not have this machine yet, so end it here
            self.renter.end(machine, "ended")
            raise

    def _work_at(self, task: Task, machine: Machine) -> Machine | None:
        while True:
            attempt = self._attempt(task, machine)
            why, detail, output, problem = "done", "", "", None
            try:
                attempt.run()
            except Lost as lost:
                why, detail = lost.why, str(lost)
            except RuleFailed as failed:
                why, detail, output = "failed", str(failed), failed.output
            except BaseException as error:
                why, problem = "ended", error
            self._note(attempt, why)
            if problem:
                raise problem
            if why == "done":
                if attempt.links:
                    self.log(f"{task.name}: links stay on the machine: {listed(attempt.links)}")
                task.outcome = Outcome(log=str(attempt.log_file))
                break
            self.log(f"{task.name} on {machine.label}: {detail}")
            task.ends[why] += 1
            action = watch.next_action(why, task.ends[why], self.retries, output)
            if (
                why in watch.INFRASTRUCTURE
                and sum(task.ends[w] for w in watch.INFRASTRUCTURE) > self.retries + self.lost_bids
            ):
                action = "fail"
            if action == "fail":
                task.outcome = Outcome(detail, attempt.tail, str(attempt.log_file))
                if why == "stalled":  # the GPU may hang in the next job as well
                    why = books.STALLED
                # After another job, a machine with work that is not saved would be destroyed.
                if why in (books.STALLED, *watch.INFRASTRUCTURE) or self.keeper.holds(
                    machine.label
                ):
                    self.renter.end(machine, why)
                    return None
                break
            if action == "bigger" or why in watch.INFRASTRUCTURE:
                self.renter.end(machine, why, superseded=not self.closing.is_set())
                self._requeue(task, action)
                return None
            if action == "prune":
                self._prune(machine, attempt)
            self.renter.promise(
                machine, task.requirements.seconds
            )  # the next attempt may take the whole time again
        self.renter.promise(machine, 0.0)
        return machine

    def _attempt(self, task: Task, machine: Machine) -> Attempt:
        with self._changed:
            self._attempts += 1
            name = f"{self.ledger.run}-{self._attempts}"
        return Attempt(
            task, machine, name, self.renter.site, self.keeper, self.clock, self.limits, self.pace,
            self.places, self.closing, self.renter.reattach, self.logs / f"{name}.log",
            self.renter.wake,
        )  # fmt: skip

    def _note(self, attempt: Attempt, why: str) -> None:
        machine = attempt.machine
        wasted = 0.0 if why == "done" else attempt.wasted
        self.ledger.write(
            "attempt", attempt=attempt.name, job=attempt.task.name, label=machine.label,
            offer=machine.offer.id, dph=machine.price, seconds=attempt.seconds, ran=attempt.ran,
            dollars=books.cost(machine.price, attempt.seconds),
            wasted=wasted, wasted_dollars=books.cost(machine.price, wasted), why=why,
        )  # fmt: skip

    def _prune(self, machine: Machine, attempt: Attempt) -> None:
        connection = machine.connection
        try:
            request = {"prune": [attempt.folder]}
            connection.ask("prune", f"{attempt.site.folder}/none", request, 4 * connection.timeout)
        except Exception as error:
            self.log(f"{machine.label}: no disk space could be freed: {error}")

    def _requeue(self, task: Task, action: str) -> None:
        """Put the job first in the queue, with requirements that avoid this failure."""
        if action == "bigger":
            task.requirements = replace(task.requirements, disk_gb=2 * task.requirements.disk_gb)
        if task.requirements.interruptible and task.ends["outbid"] >= self.lost_bids:
            task.requirements = on_demand(task.requirements)
        with self._changed:
            self._waiting.appendleft(task)
            self._changed.notify_all()
