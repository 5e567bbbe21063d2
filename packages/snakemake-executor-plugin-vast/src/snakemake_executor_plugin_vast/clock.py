"""The clock of the executor, which tests can run faster than real time.

A clock of scale 60 counts a minute in every real second, both in waits and in deadlines.
"""

from __future__ import annotations

import threading
import time

JUMP = 1.0  # seconds by which the time of day runs ahead when a computer has slept


class Clock:
    """Elapsed seconds (`now`), the time of day (`wall`), and waiting."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._lock, self._slept = threading.Lock(), 0.0
        self._awake, self._wall = time.monotonic(), time.time()

    def now(self) -> float:
        """Seconds since an unspecified moment, in this clock's time.

        They go on while this computer sleeps, since machines are billed then as well, and never go
        back when somebody sets its time.
        """
        with self._lock:
            awake, wall = time.monotonic(), time.time()
            jump = (wall - self._wall) - (awake - self._awake)
            self._slept += jump if jump > JUMP else 0.0
            self._awake, self._wall = awake, wall
            return (awake + self._slept) * self.scale

    def awake(self) -> float:
        """The same without the time in which this computer slept."""
        return time.monotonic() * self.scale

    def wall(self) -> float:
        """Unix time in real seconds: for records, never for deadlines."""
        return time.time()

    def wait(self, seconds: float, event: threading.Event | None = None) -> bool:
        """Wait; returns true as soon as `event` is set."""
        return (event or threading.Event()).wait(self.real(seconds))

    def real(self, seconds: float) -> float:
        """How many real seconds pass in `seconds` of this clock."""
        return max(0.0, seconds) / self.scale
