"""Dollars that the run has spent so far, from any installed package that reports them.

A package reports costs with an entry point of the group `snakemake_logger_plugin_live.costs`:

    [project.entry-points."snakemake_logger_plugin_live.costs"]
    cloud = "my_package.bills:dollars_spent"

The entry point is a function without arguments. It returns the dollars spent so far, over all runs,
on work in the current folder, and the display subtracts what had been spent before this run. It is
called about twice a second, from any thread, so it should answer from local files in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import TypeAlias

__all__ = ["GROUP", "Costs", "DollarsSpent", "installed_sources"]

GROUP = "snakemake_logger_plugin_live.costs"
DollarsSpent: TypeAlias = Callable[[], float]


class Costs:
    """Dollars that `sources` report as spent since this object was made.

    A source that raises an exception, or returns no finite number, counts with its last good
    answer. It never disturbs the run.
    """

    def __init__(self, sources: Iterable[DollarsSpent]) -> None:
        self._sources = tuple(sources)
        self._first: dict[int, float] = {}  # {index of the source: its first good answer}
        self._last: dict[int, float] = {}
        self.dollars()

    def dollars(self) -> float:
        """Dollars spent since this object was made, 0 without sources."""
        for index, source in enumerate(self._sources):
            answer = _answer(source)
            if answer is not None:
                self._first.setdefault(index, answer)
                self._last[index] = answer
        return sum(self._last[index] - first for index, first in self._first.items())


def _answer(source: DollarsSpent) -> float | None:
    """What the source returns as a finite number, or None."""
    try:
        answer = float(source())
    except Exception:
        return None
    return answer if math.isfinite(answer) else None


def installed_sources() -> list[DollarsSpent]:
    """The functions of all installed entry points; those that cannot be imported are left out."""
    found = []
    for entry_point in entry_points(group=GROUP):
        try:
            found.append(entry_point.load())
        except Exception:
            continue
    return found
