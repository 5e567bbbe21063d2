"""Jobs in a queue, machines in slots: each slot rents for the first job that waits, keeps the
machine warm for the next, and hands a job back when its machine is lost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from . import ledger as books
from . import watch
from .clock import Clock
from .keeper import Keeper
from .rental import Closing, Lost, Machine, NothingToRent, OverBudget, Renter, on_demand
from .watch import Limits
from .work import Attempt, Outcome, Pace, RuleFailed, Task


class Pool:
    """`submit` returns at once; a task's `outcome` is set when it is over."""

    def __init__(
        self,
        renter: Renter,
        keeper: Keeper,
        ledger: books.Ledger,
        clock: Clock,
        limits: Limits,
        pace: Pace,
        logs: Path,
        most: int,
        retries: int,
        lost_bids: int,
        closing: threading.Event,
        log: Callable[[str], None],
    ):
        self.renter, self.keeper, self.ledger, self.clock = renter, keeper, ledger, clock
        self.limits, self.pace, self.logs, self.most = limits, pace, logs, most
        self.retries, self.lost_bids, self.closing, self.log = retries, lost_bids, closing, log
        self._waiting: deque[Task] = deque()
        self._idle: dict[int, Machine | None] = {}  # free slots; None: has no machine yet
        self._slots: dict[int, threading.Thread] = {}
        self._busy: set[int] = set()  # slots that have a machine, or are about to
        self._changed = threading.Condition()
        self._numbers, self._attempts = 0, 0
        self._places: dict[str, str] = {}  # state: the machine that has the newest

    def submit(self, task: Task) -> None:
        with self._changed:
            self._waiting.append(task)
            self._open_slots()
            self._changed.notify_all()

    def close(self) -> None:
        """End jobs, bring states home, let slots end; wait for that only so long."""
        self.closing.set()
        with self._changed:
            self._changed.notify_all()
            threads = list(self._slots.values())
        until = self.clock.now() + self.limits.farewell
        for thread in threads:
            thread.join(self.clock.real(until - self.clock.now()))

    # ---- slots ---------------------------------------------------------------------------------

    def _open_slots(self) -> None:
        """As many slots as jobs wait that no idle machine serves. Called with the lock held."""
        free = list(self._idle.values())
        for task in self._waiting:
            fit = next((m for m in free if m is not None and m.serves(task.wish)), None)
            if fit is not None or None in free:
                free.remove(fit)
            elif len(self._slots) < self.most:
                self._numbers += 1
                slot, self._idle[self._numbers] = self._numbers, None
                thread = threading.Thread(target=self._work, args=(slot,), daemon=True)
                self._slots[slot] = thread
                thread.start()

    def _take(self, slot: int, machine: Machine | None) -> tuple[Task | None, bool]:
        """(the next task or None, whether the machine may go on with it)"""
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
        """The first task for the machine; without one, the first that no warm machine will take."""
        warm = [m for m in self._idle.values() if m is not None]
        for task in self._waiting:
            if machine and machine.serves(task.wish):
                return task
            if machine is None:
                fit = next((m for m in warm if m.serves(task.wish)), None)
                if fit is None:
                    return task
                warm.remove(fit)
        return None

    def _served(self, task: Task) -> bool:
        """Whether an idle slot will take the task, or one may still be opened for it."""
        fit = any(m is None or m.serves(task.wish) for m in self._idle.values())
        return fit or len(self._slots) < self.most

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
                except (OverBudget, NothingToRent) as fault:
                    if machine:  # still there only when the budget is what lacks
                        self.renter.end(machine, "budget")
                    machine = None
                    with self._changed:
                        self._busy.discard(slot)
                        if self._busy:  # those that have machines may serve it
                            reopen = False
                            self._waiting.append(task)
                            self._changed.notify_all()
                            return
                    task.outcome = Outcome(str(fault))
                if machine is None:
                    self._busy.discard(slot)
        except Closing:
            pass
        except Exception as fault:  # whatever it is, it must reach Snakemake, and no machine stays
            self.log(f"slot {slot}: {type(fault).__name__}: {fault}")
            if task and task.outcome is None:
                task.outcome = Outcome(f"{type(fault).__name__}: {fault}")
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
        """Work at a task until it is over or handed back; the machine, if it is still good."""
        if machine and not self.renter.well(machine):
            self.renter.end(machine, "outbid" if machine.wish.interruptible else "gone")
            machine = None
        if machine:
            self.renter.promise(machine, task.wish.seconds)
        else:
            machine = self.renter.rent(task.wish, slot)
        try:
            return self._work_at(task, machine)
        except OverBudget:
            self.renter.end(machine, "budget")
            raise
        except BaseException:  # the slot may not know it yet: nobody else would end it
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
            except BaseException as fault:
                why, problem = "ended", fault
            self._note(attempt, why)
            if problem:
                raise problem
            if why == "done":
                task.outcome = Outcome(log=str(attempt.log_file))
                break
            self.log(f"{task.name} on {machine.label}: {detail}")
            task.ends[why] += 1
            remedy = watch.remedy(why, task.ends[why], self.retries, output)
            if (
                why in watch.INFRASTRUCTURE
                and sum(task.ends[w] for w in watch.INFRASTRUCTURE) > self.retries + self.lost_bids
            ):
                remedy = "fail"
            if remedy == "fail":
                task.outcome = Outcome(detail, attempt.tail, str(attempt.log_file))
                if why == "stalled":  # a GPU that hangs does so for the next job as well
                    why = books.STALLED
                if why in (books.STALLED, *watch.INFRASTRUCTURE):
                    self.renter.end(machine, why)
                    return None
                break
            if remedy == "bigger" or why in watch.INFRASTRUCTURE:
                self.renter.end(machine, why)
                self._hand_back(task, remedy)
                return None
            if remedy == "prune":
                self._prune(machine, attempt)
            self.renter.promise(machine, task.wish.seconds)  # a second time takes its time again
        self.renter.promise(machine, 0.0)
        return machine

    def _attempt(self, task: Task, machine: Machine) -> Attempt:
        with self._changed:
            self._attempts += 1
            name = f"{self.ledger.run}-{self._attempts}"
        return Attempt(
            task, machine, name, self.renter.site, self.keeper, self.clock, self.limits, self.pace,
            self._places, self.closing, self.renter.reattach, self.logs / f"{name}.log",
        )  # fmt: skip

    def _note(self, attempt: Attempt, why: str) -> None:
        machine = attempt.machine
        wasted = 0.0 if why == "done" else attempt.wasted
        self.ledger.write(
            "attempt", attempt=attempt.name, job=attempt.task.name, label=machine.label,
            offer=machine.offer.id, dph=machine.dph, seconds=attempt.seconds, ran=attempt.ran,
            dollars=books.cost(machine.dph, attempt.seconds),
            wasted=wasted, wasted_dollars=books.cost(machine.dph, wasted), why=why,
        )  # fmt: skip

    def _prune(self, machine: Machine, attempt: Attempt) -> None:
        way = machine.transport
        try:
            request = {"prune": [attempt.folder]}
            way.ask("prune", f"{attempt.site.folder}/none", request, 4 * way.timeout)
        except Exception as fault:
            self.log(f"{machine.label}: no room could be made: {fault}")

    def _hand_back(self, task: Task, remedy: str) -> None:
        """The job waits again, at the front, with what this end has taught."""
        if remedy == "bigger":
            task.wish = replace(task.wish, disk_gb=2 * task.wish.disk_gb)
        if task.wish.interruptible and task.ends["outbid"] >= self.lost_bids:
            task.wish = on_demand(task.wish)
        with self._changed:
            self._waiting.appendleft(task)
            self._changed.notify_all()
