"""Holds what is rented to what is wanted, until the API agrees.

One thread lists the machines of a run every few seconds. Whatever carries the run's label and is
not wanted is destroyed, again at every look; it has ended once the list no longer names it. So a
lost reply, a stray, a refused destroy and an end are all the same case.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .api import Instance, Vast, VastError, with_prefix
from .clock import Clock

EVERY = 10.0
CONFIRMED = 2  # listings without a machine before it counts as gone


class Keeper:
    """`wanted` labels live, all others below `prefix` are destroyed; `ended(label)` tells of it."""

    def __init__(
        self,
        api: Vast,
        prefix: str,
        clock: Clock,
        ended: Callable[[str], None] = lambda label: None,
        log: Callable[[str], None] = lambda text: None,
    ):
        self.api, self.prefix, self.clock, self.ended, self.log = api, prefix, clock, ended, log
        self.listed: dict[str, Instance] = {}
        self.looked: float | None = None  # when the last successful listing was asked for
        self.failed = ""
        self._wanted: set[str] = set()
        self._ending: dict[str, int] = {}  # label: successive listings without it
        self._changed_at: dict[str, tuple[str | None, float]] = {}
        self._lock, self._wake, self._done = threading.Lock(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def want(self, label: str) -> None:
        """From now on, and before it is made, a machine of this label may live."""
        with self._lock:
            self._wanted.add(label)
            self._ending.pop(label, None)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="vast-keeper")
            self._thread.start()

    def unwant(self, label: str) -> None:
        """End it; `ended` is called once it is gone."""
        with self._lock:
            self._wanted.discard(label)
            self._ending[label] = 0
        self._wake.set()

    def find(self, label: str, since: float) -> tuple[bool, Instance | None]:
        """(whether a listing was made after `since`, the machine in the newest listing)"""
        with self._lock:
            known = self.looked is not None and self.looked >= since
            return known, self.listed.get(label)

    def status_since(self, label: str) -> float | None:
        """Since when the machine has had its present status, on the clock."""
        with self._lock:
            return self._changed_at.get(label, (None, None))[1]

    def look(self) -> None:
        """One round: list, destroy what nobody wants, note what is gone. Raises VastError."""
        begun = self.clock.now()
        found = {i.label: i for i in with_prefix(self.api.instances(), self.prefix)}
        gone = []
        with self._lock:
            self.listed, self.looked = found, begun
            for label, instance in found.items():
                if self._changed_at.get(label, ("", 0.0))[0] != instance.status:
                    self._changed_at[label] = (instance.status, begun)
            unwanted = [i for label, i in found.items() if label not in self._wanted]
            for label in self._ending:
                self._ending[label] = 0 if label in found else self._ending[label] + 1
            gone = [label for label, times in self._ending.items() if times >= CONFIRMED]
            for label in gone:
                del self._ending[label]
        for instance in unwanted:
            with self._lock:
                self._ending.setdefault(instance.label, 0)
            try:
                self.api.destroy(instance.id)
            except VastError as fault:
                self.failed = str(fault)
        for label in gone:  # last: what goes wrong with one's books must keep no other alive
            self.ended(label)

    def end_all(self, patience: float) -> list[str]:
        """Want nothing any more, and wait until nothing is listed; the labels that are left.

        Works in the calling thread as well, so that it holds when the keeper's own is gone.
        """
        self._done.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(self.clock.real(patience))
        with self._lock:
            for label in self._wanted:
                self._ending.setdefault(label, 0)
            self._wanted.clear()
        until, clean = self.clock.now() + patience, 0
        while clean < CONFIRMED:
            try:
                self.look()
                clean = 0 if self.listed or self._ending else clean + 1
            except Exception as fault:  # a full disk here as well: end all that can be ended
                self.failed = str(fault)
            if self.clock.now() > until:
                with self._lock:
                    return sorted({*self.listed, *self._ending})
            if clean < CONFIRMED:
                self.clock.wait(1.0)
        return []

    def _run(self) -> None:
        while not self._done.is_set():
            self._wake.clear()
            try:
                self.look()
            except VastError as fault:
                self.failed = str(fault)
            except Exception as fault:  # a keeper that dies lets machines live
                self.log(f"looking after the machines: {type(fault).__name__}: {fault}")
            busy = bool(self._ending)
            self.clock.wait(1.0 if busy else EVERY, None if busy else self._wake)
