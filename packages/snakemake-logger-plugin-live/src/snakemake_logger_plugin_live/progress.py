"""Lines of progress that jobs print: `label: 40/120 (33 %) loss 1.2, 14 s left`.

The README documents the format for authors of workflows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

TAIL = 4096  # bytes at the end of a log that are searched for a line of progress

_LINE = re.compile(r".+: (?P<done>\d+)/(?P<total>\d+) \(\d+ ?%\)(?: (?P<notes>.*))?$")
_LEFT = re.compile(r"(\d+(?:\.\d+)?) s left")


@dataclass(frozen=True)
class Progress:
    """One line of progress: `note` is what the line says besides counts and `seconds_left`."""

    done: int
    total: int
    note: str = ""
    seconds_left: float | None = None


def parse(line: str) -> Progress | None:
    """The progress that a line reports, or None if the line is not a line of progress."""
    found = _LINE.match(line)
    if not found:
        return None
    notes, seconds_left = [], None
    for note in (found["notes"] or "").split(", "):
        if left := _LEFT.fullmatch(note):
            seconds_left = float(left[1])
        else:
            notes.append(note)
    return Progress(int(found["done"]), int(found["total"]), ", ".join(notes), seconds_left)


def last_progress(logs: Iterable[str]) -> Progress | None:
    """The last progress in the first log that can be read, or None."""
    for log in logs:
        try:
            with open(log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        return next((found for line in reversed(lines) if (found := parse(line))), None)
    return None
