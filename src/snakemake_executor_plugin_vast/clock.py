"""Time, as everything here sees it: one clock that tests may run faster.

A clock of scale 60 lives a minute in every real second, in waits as in deadlines.
"""

from __future__ import annotations

import threading
import time


class Clock:
    """Seconds since some moment (`now`), the calendar (`wall`), and waiting."""

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def now(self) -> float:
        return time.monotonic() * self.scale

    def wall(self) -> float:
        """Unix time in real seconds: for records, never for deadlines."""
        return time.time()

    def wait(self, seconds: float, event: threading.Event | None = None) -> bool:
        """Wait; true when `event` was set before or meanwhile."""
        return (event or threading.Event()).wait(self.real(seconds))

    def real(self, seconds: float) -> float:
        """How many real seconds `seconds` of this clock last."""
        return max(0.0, seconds) / self.scale
