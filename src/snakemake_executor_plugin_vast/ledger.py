"""The ledger: an append-only file of what was rented, why it ended, and what it cost.

One JSON object a line, each synced to disk before anything depends on it. Kinds of lines (`what`):

- `intend`  a machine is about to be rented: `label`, `offer`, `machine`, `dph`, `seconds` promised
- `rent`    it was: `label`, `instance`, `dph`
- `promise` what its jobs may still take: `label`, `lived` so far, `seconds` from then on
- `attempt` a job ended on it: `attempt`, `job`, `label`, `offer`, `dph`, `seconds`, `dollars`,
            `why`, `ran` (seconds of the job itself), `wasted` (seconds lost), `wasted_dollars`
- `end`     it is gone, and the API no longer lists it: `label`, `seconds`, `dollars`, `why`

All arithmetic is pure, over the lines that `read` gives.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ablation.provenance import read_json_lines

# Ends after which a machine is not rented again for a while.
STALLED = "stalled twice"
BAD = ("boot", "fatal", "ssh", "smoke", "setup", "silent", "offline", "gone", STALLED)
FORGIVEN = 24 * 3600.0
LONGEST_LINE = 1 << 16  # bytes


class Ledger:
    """Appends lines, one writer at a time; several drivers may share one file."""

    def __init__(self, path: Path, run: str, wall):
        self.path, self.run, self.wall = path, run, wall
        self._lock = threading.Lock()

    def write(self, what: str, **facts) -> dict:
        line = {"what": what, "run": self.run, "time": round(self.wall(), 3), **facts}
        text = json.dumps(line, sort_keys=True) + "\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
                _end_line(file)
                file.write(text.encode())
                os.fsync(file.fileno())
        return line


def _end_line(file: BinaryIO) -> None:
    """Drop a last line that a power loss has cut off, end one that an editor has left open."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST_LINE))
    if last := file.read().rpartition(b"\n")[2]:
        try:
            json.loads(last)
            file.write(b"\n")
        except ValueError:
            file.truncate(size - len(last))


def read(path: Path) -> list[dict]:
    """The lines of a ledger; a last one that a power loss has cut off is left out, and told.

    Raises ValueError that names file and line where another is damaged.
    """
    return read_json_lines(path, appended=True) if path.is_file() else []


@dataclass(frozen=True)
class Rental:
    """One machine in the ledger, from the moment its rental was intended."""

    label: str
    run: str
    dph: float
    since: float  # when the lines say it began, on the wall clock
    promised: float  # seconds that its jobs may take in all, from `since`
    instance: int | None = None
    dollars: float | None = None  # once it has ended
    seconds: float = 0.0


@dataclass(frozen=True)
class Account:
    """Dollars: `spent` so far, `committed` to running machines, `wasted` of what was spent."""

    spent: float
    committed: float
    wasted: float

    def allows(self, estimate: float, budget: float | None) -> bool:
        """Whether renting for `estimate` more dollars stays within the budget."""
        return budget is None or self.spent + self.committed + estimate <= budget + 1e-9


def rentals(lines: Iterable[dict]) -> dict[str, Rental]:
    """{label: its rental}"""
    found: dict[str, Rental] = {}
    for line in lines:
        label, what = line.get("label"), line["what"]
        if what == "intend":
            promised = float(line["seconds"])
            found[label] = Rental(label, line["run"], float(line["dph"]), line["time"], promised)
        elif label in found:
            old = vars(found[label])
            if what == "rent":
                new = {"instance": line["instance"], "dph": float(line["dph"])}
            elif what == "promise":
                new = {"promised": float(line["lived"]) + float(line["seconds"])}
            elif what == "end":
                new = {"dollars": float(line["dollars"]), "seconds": float(line["seconds"])}
            else:
                new = {}
            found[label] = Rental(**old | new)
    return found


def account(lines: Iterable[dict], wall: float, scale: float = 1.0) -> Account:
    """Where the money stands. `scale`: seconds of the plugin's clock in one of the wall's."""
    lines = list(lines)
    spent = committed = 0.0
    for rental in rentals(lines).values():
        if rental.dollars is not None:
            spent += rental.dollars
            continue
        lived = max(0.0, wall - rental.since) * scale
        spent += cost(rental.dph, lived)
        committed += cost(rental.dph, max(0.0, rental.promised - lived))
    wasted = sum(
        cost(line["dph"], line.get("wasted", 0.0)) for line in lines if line["what"] == "attempt"
    )
    return Account(spent, committed, wasted)


def cost(dph: float, seconds: float) -> float:
    return dph * seconds / 3600


def open_rentals(lines: Iterable[dict]) -> list[Rental]:
    """What was rented, or may have been, and has not ended."""
    return [rental for rental in rentals(lines).values() if rental.dollars is None]


def bad_machines(lines: Iterable[dict], wall: float) -> set[int]:
    """Machines that failed within the last day."""
    lines = list(lines)
    machine = {line["label"]: line["machine"] for line in lines if line["what"] == "intend"}
    return {
        machine[line["label"]]
        for line in lines
        if line["what"] == "end"
        and line.get("why", "").partition(":")[0] in BAD
        and line.get("label") in machine
        and wall - line["time"] < FORGIVEN
    }


def summary(lines: Iterable[dict], wall: float, scale: float = 1.0) -> str:
    """One line on machines, hours and dollars."""
    lines = list(lines)
    found, money = rentals(lines), account(lines, wall, scale)
    hours = sum(rental.seconds for rental in found.values()) / 3600
    attempts = sum(line["what"] == "attempt" for line in lines)
    text = f"{len(found)} machines, {hours:.2f} h, ${money.spent:.2f}"
    return f"{text} (${money.wasted:.2f} of it for {attempts} attempts' lost work)"
