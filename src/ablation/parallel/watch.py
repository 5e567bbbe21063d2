"""Watches, beside the ranks of a machine, the process that started them and the other machines."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from typing import Any

from torch import distributed

SILENCE = 30.0  # seconds after which a machine that says nothing counts as lost
LOOK = 0.5  # seconds between two looks
GRACE = 4.0  # seconds in which ranks may see for themselves that others have failed
PARENT_ENDED = "Snakemake has ended without this job, so its ranks were ended"


class Watch:
    """While the block runs: send SIGTERM to this process if its ranks can no longer finish.

    That is so when the process that started this one ends, such as a Snakemake that is killed;
    and on several machines when the ranks of another one have failed, or when it falls silent. NCCL
    itself would wait for a lost machine until the timeout of a collective operation.

    why: the reason, once the signal is sent.
    """

    def __init__(self, store: distributed.TCPStore, nodes: int) -> None:
        self.why: str | None = None
        self._store, self._nodes, self._over = store, nodes, threading.Event()
        self._parent = os.getppid()
        self._heard: dict[str, float] = {}  # {host: time of its last sign of life}
        self._own = ""  # the name of this machine there
        self._failure: str | None = None
        self._lock = threading.Lock()  # no signal is sent once the block has ended

    def __enter__(self) -> Watch:
        threads = [self._look, *([self._beat] if self._nodes > 1 else [])]
        for work in threads:  # a call to the store of a lost machine may hang
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._over.set()

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            if why := self._reason():
                with self._lock:
                    if not self._over.is_set():
                        self.why = why
                        os.kill(os.getpid(), signal.SIGTERM)
                return

    def _reason(self) -> str | None:
        if os.getppid() != self._parent:
            return PARENT_ENDED
        now = time.monotonic()
        lost = [host for host, heard in list(self._heard.items()) if now - heard > SILENCE]
        if self._own in lost:  # this one is heard only through the store
            lost = ["the machine where the job began"]
        if lost:
            return f"{', '.join(lost)} has not answered for {SILENCE:.0f} s, so all ranks ended"
        return self._failure

    def _beat(self) -> None:
        """Give signs of life, and listen to those of the others, at the store."""
        try:
            own = self._store.add("machines", 1)
            self._own = f"{socket.gethostname()} (machine {own})"
            self._store.set(f"host/{own}", self._own)
            beats: dict[int, int] = {}
            while not self._over.wait(LOOK):
                self._store.add(f"beat/{own}", 1)
                for other in range(1, self._store.add("machines", 0) + 1):
                    beat = self._store.add(f"beat/{other}", 0)
                    if beat != beats.get(other):
                        beats[other] = beat
                        if beat:
                            host = self._store.get(f"host/{other}").decode()
                            self._heard[host] = time.monotonic()
                if self._store.add("reports", 0) and not self._over.wait(GRACE):
                    self._failure = "ranks of another machine have failed, so these were ended"
        except (RuntimeError, distributed.DistError):
            if not self._over.wait(4 * LOOK):  # at the end of a run the store may go first
                self._failure = "the machine where the job began has ended, so these ranks ended"
