"""The clock of the executor, which tests can run faster than real time.

A clock of scale 60 counts a minute in every real second, both in waits and in deadlines.
"""

from __future__ import annotations

import threading
import time


class Clock:
    """Elapsed seconds (`now`), the time of day (`wall`), and waiting."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def now(self) -> float:
        """Seconds since an unspecified moment, in this clock's time."""
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
