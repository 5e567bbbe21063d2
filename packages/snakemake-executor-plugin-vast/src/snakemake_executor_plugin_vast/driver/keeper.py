"""Keeps the rented machines equal to the wanted ones.

One thread lists the machines of a run every few seconds. It destroys every machine that has the
run's label prefix and is not wanted, and repeats that until the market no longer lists it. So the
same code handles a normal end, a lost reply to an order and a refused destroy. When the list cannot
be read, machines are destroyed by the ids that are known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from ..clock import Clock
from ..market.protocol import Instance, Market, MarketError, Status

EVERY = 10.0
CONFIRMED = 2  # lists without a machine before it counts as ended


class Keeper:
    """Destroys the machines below `prefix` that are not wanted, and then calls `ended(label)`."""

    def __init__(
        self,
        market: Market,
        prefix: str,
        clock: Clock,
        ended: Callable[[str], None] = lambda label: None,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.market, self.prefix, self.clock = market, prefix, clock
        self.ended, self.log = ended, log
        self.listed: dict[str, Instance] = {}
        self.looked: float | None = None  # when the last successful list was requested
        self.failed = ""  # the last error of the market
        self._wanted: set[str] = set()
        self._ids: dict[str, int] = {}  # by label
        self._ending: dict[str, int] = {}  # label: successive lists without it
        self._changed_at: dict[str, tuple[Status, float]] = {}
        self._lock, self._wake, self._done = threading.Lock(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def want(self, label: str) -> None:
        """Allow a machine with this label to exist. Must be called before it is ordered."""
        with self._lock:
            self._wanted.add(label)
            self._ending.pop(label, None)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="vast-keeper")
            self._thread.start()

    def know(self, label: str, id: int) -> None:
        """Note the instance id of a machine, with which it can be ended without a list."""
        with self._lock:
            self._ids[label] = id

    def unwant(self, label: str) -> None:
        """End the machine; `ended` is called once the market no longer lists it."""
        with self._lock:
            self._wanted.discard(label)
            self._ending[label] = 0
        self._wake.set()

    def find(self, label: str, since: float) -> tuple[bool, Instance | None]:
        """Whether the newest list was requested after `since`, and the machine in it."""
        with self._lock:
            known = self.looked is not None and self.looked >= since
            return known, self.listed.get(label)

    def status_since(self, label: str) -> float | None:
        """When the machine got its present status, on the clock."""
        with self._lock:
            return self._changed_at[label][1] if label in self._changed_at else None

    @property
    def seen(self) -> list[str]:
        """The labels of all machines that were ever listed."""
        with self._lock:
            return sorted(self._changed_at)

    def look(self) -> None:
        """List the machines, destroy the unwanted, note which are gone. Raises MarketError."""
        begun = self.clock.now()
        try:
            found = {i.label: i for i in with_prefix(self.market.instances(), self.prefix)}
        except Exception:
            self._end_by_id()
            raise
        with self._lock:
            self.listed, self.looked = found, begun
            for label, instance in found.items():
                self._note(label, instance, begun)
            unwanted = [i for label, i in found.items() if label not in self._wanted]
            for instance in unwanted:
                self._ending.setdefault(instance.label, 0)
            ending = list(self._ending)
        for instance in unwanted:
            try:
                self.market.destroy(instance.id or self._ids.get(instance.label, 0))
            except MarketError as error:
                self.failed = str(error)
        for label in ending:  # last: an error in the ledger must not keep others alive
            self._confirm(label, label not in found)

    def _end_by_id(self) -> None:
        """Destroy the unwanted machines whose ids are known. Each is then shown by itself."""
        with self._lock:
            ids = {label: self._ids[label] for label in self._ending if label in self._ids}
        for label, id in ids.items():
            try:
                if instance := self.market.instance(id):
                    with self._lock:
                        self._note(label, instance, self.clock.now())
                    self.market.destroy(id)
                self._confirm(label, instance is None)
            except Exception as error:  # the others must end as well
                self.failed = str(error)

    def _note(self, label: str, instance: Instance, now: float) -> None:
        """Note the id and the status of a machine. Needs the lock."""
        if instance.id:
            self._ids[label] = instance.id
        before = self._changed_at.get(label)
        if before is None or before[0] != instance.status:
            self._changed_at[label] = (instance.status, now)

    def _confirm(self, label: str, gone: bool) -> None:
        """Count a look at a machine that is to end; it has ended after CONFIRMED without it."""
        with self._lock:
            if label not in self._ending:  # another thread has counted it
                return
            self._ending[label] = self._ending[label] + 1 if gone else 0
            ended = self._ending[label] >= CONFIRMED
            if ended:
                del self._ending[label]
                self.listed.pop(label, None)
        if ended:
            self.ended(label)

    def end_all(self, patience: float) -> list[str]:
        """End all machines and wait until none is listed; the labels that are left.

        `?` stands for machines that may be left because the list could not be read. Runs in the
        calling thread, so that it works without the keeper's own thread.
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
            except Exception as error:  # also a full disk: go on with the others
                self.failed = str(error)
            if self.clock.now() > until:
                with self._lock:
                    return sorted({*self.listed, *self._ending}) or ["?"]
            if clean < CONFIRMED:
                self.clock.wait(1.0)
        return []

    def _run(self) -> None:
        while not self._done.is_set():
            self._wake.clear()
            try:
                self.look()
            except MarketError as error:
                self.failed = str(error)
            except Exception as error:  # without this thread machines would be left
                self.log(f"machines could not be listed: {type(error).__name__}: {error}")
            busy = bool(self._ending)
            self.clock.wait(1.0 if busy else EVERY, None if busy else self._wake)


def with_prefix(instances: Iterable[Instance], prefix: str) -> list[Instance]:
    return [instance for instance in instances if instance.label.startswith(prefix)]
