"""Keeps the rented machines equal to the wanted ones.

One thread lists the machines of a run every few seconds. It destroys every machine that has the
run's label prefix and is not wanted, and repeats that until the market no longer lists it. So the
same code handles a normal end, a lost reply to an order and a refused destroy. When the list cannot
be read, machines are destroyed by the ids that are known.

A machine that is held has work that is not saved. It is stopped instead of destroyed, and only
somebody's explicit wish ends it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace

from ..clock import Clock
from ..market.protocol import Instance, MachineId, Market, MarketError, Status

EVERY = 10.0
OFF = ("stopped", "offline")
CONFIRMED = 2  # lists without a machine before it counts as ended


class Keeper:
    """Destroys the machines below `prefix` that are not wanted, and then calls `ended(label)`.

    Those of them that are held are stopped, and then `halted(instance)` is called.
    """

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
        self.halted: Callable[[Instance], None] = lambda instance: None
        self.stopped: dict[str, Instance] = {}  # held machines that the market lists as stopped
        self.listed: dict[str, Instance] = {}
        self.looked: float | None = None  # when the last successful list was requested
        self.failed = ""  # the last error of the market
        self._wanted: set[str] = set()
        self._held: set[str] = set()  # labels of machines with work that is not saved
        self._stopping: set[str] = set()  # held machines for which a stop was accepted
        self._ids: dict[str, MachineId] = {}  # by label
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

    def know(self, label: str, id: MachineId) -> None:
        """Note the instance id of a machine, with which it can be ended without a list."""
        with self._lock:
            self._ids[label] = id

    def hold(self, label: str) -> None:
        """Let the machine be stopped instead of destroyed, since it has work that is not saved."""
        with self._lock:
            self._held.add(label)

    def release(self, label: str) -> None:
        """Let the machine be destroyed, since its work is saved or not needed."""
        with self._lock:
            self._held.discard(label)

    def holds(self, label: str) -> bool:
        """Whether the machine has work that is not saved."""
        with self._lock:
            return label in self._held

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
    def ids(self) -> set[MachineId]:
        """The instance ids of all machines that are known."""
        with self._lock:
            return set(self._ids.values())

    @property
    def seen(self) -> list[str]:
        """The labels of all machines that were ever listed."""
        with self._lock:
            return sorted(self._changed_at)

    def look(self) -> None:
        """List the machines, destroy the unwanted, note which are gone. Raises MarketError."""
        begun = self.clock.now()
        try:
            found = {i.label: i for i in self.market.instances(self.prefix)}
        except Exception:
            self._end_by_id()
            raise
        with self._lock:
            self.listed, self.looked = found, begun
            for label, instance in found.items():
                self._note(label, instance, begun)
            kept = self._wanted | self.stopped.keys()
            unwanted = [i for label, i in found.items() if label not in kept]
            for instance in unwanted:
                self._ending.setdefault(instance.label, 0)
            ending = list(self._ending)
        for instance in unwanted:
            try:
                self._end(instance.label, instance)
            except Exception as error:  # the others must end as well
                self.failed = str(error)
        for label in ending:  # last: an error in the ledger must not keep others alive
            self._confirm(label, found.get(label))

    def current(self) -> list[Instance]:
        """The machines that exist; if the list cannot be read, those whose ids are known."""
        try:
            return self.market.instances(self.prefix)
        except Exception as error:
            self.failed = str(error)
        with self._lock:
            ids = list(self._ids.values())
        found = []
        for id in ids:
            with contextlib.suppress(Exception):  # the others may be shown
                found.append(self.market.instance(id))
        return [instance for instance in found if instance]

    def _end(self, label: str, instance: Instance) -> None:
        """Destroy a machine, or stop it if it is held."""
        id = instance.id or self._ids.get(label, 0)
        if label not in self._held:
            self.market.destroy(id)
        elif label not in self._stopping or instance.status not in OFF:
            self.market.stop(id)  # once in any case, since a start may be under way
            self._stopping.add(label)

    def _end_by_id(self) -> None:
        """Destroy the unwanted machines whose ids are known. Each is then shown by itself."""
        with self._lock:
            ids = {label: self._ids[label] for label in self._ending if label in self._ids}
        for label, id in ids.items():
            instance: Instance | None = Instance(id, label, "starting", "", 0, 0.0, False)
            try:
                if instance := self.market.instance(id):
                    with self._lock:
                        self._note(label, instance, self.clock.now())
            except Exception as error:  # it may exist
                self.failed = str(error)
            try:
                if instance:
                    self._end(label, replace(instance, label=label))
                self._confirm(label, instance)
            except Exception as error:  # the others must end as well
                self.failed = str(error)

    def _note(self, label: str, instance: Instance, now: float) -> None:
        """Note the id and the status of a machine. Needs the lock."""
        if instance.id:
            self._ids[label] = instance.id
        before = self._changed_at.get(label)
        if before is None or before[0] != instance.status:
            self._changed_at[label] = (instance.status, now)

    def _confirm(self, label: str, instance: Instance | None) -> None:
        """Count a look at a machine that is to end; it has ended after CONFIRMED without it."""
        with self._lock:
            if label not in self._ending:  # another thread has counted it
                return
            self._ending[label] = 0 if instance else self._ending[label] + 1
            ended = self._ending[label] >= CONFIRMED
            off = instance is not None and instance.status in OFF
            halted = instance if off and label in self._stopping & self._held else None
            if ended or halted:
                del self._ending[label]
            if ended:
                self.listed.pop(label, None)
            if halted:
                self.stopped[label] = halted
        if ended:
            self.ended(label)
        if halted:
            self.halted(halted)

    def end_all(self, patience: float) -> list[str]:
        """End all machines and wait until none is listed; the labels that are left.

        Held machines are not among these once they are listed as stopped. `?` stands for machines
        that may be left because the list could not be read. Runs in the calling thread, so that it
        works without the keeper's own thread.
        """
        self._done.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(self.clock.real(patience))
        with self._lock:
            for label in self._wanted:
                self._ending.setdefault(label, 0)
            self._wanted.clear()
        until, clean = self.clock.awake() + patience, 0  # a computer that sleeps ends nothing
        while clean < CONFIRMED:
            try:
                self.look()
                clean = 0 if self.listed.keys() - self.stopped or self._ending else clean + 1
            except Exception as error:  # also a full disk: go on with the others
                self.failed = str(error)
            if self.clock.awake() > until:
                with self._lock:
                    return sorted({*self.listed, *self._ending} - self.stopped.keys()) or ["?"]
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
