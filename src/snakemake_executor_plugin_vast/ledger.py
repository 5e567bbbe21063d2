"""The ledger: an append-only file of what was rented, why it ended, and what it cost.

One JSON object a line, each synced to disk before anything depends on it. Kinds of lines (`what`):

- `intend`  a machine is about to be rented: `label`, `offer`, `machine`, `dph`, `seconds` promised
- `rent`    it was: `label`, `instance`, `dph`
- `promise` what its jobs may still take: `label`, `lived` so far, `seconds` from then on
- `attempt` a job ended on it: `attempt`, `job`, `label`, `dph`, `seconds`, `wasted`, `why`
- `end`     it is gone, and the API no longer lists it: `label`, `seconds`, `dollars`, `why`

All arithmetic is pure, over the lines that `read` gives.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Ends after which a machine is not rented again for a while.
BAD = ("boot", "fatal", "ssh", "smoke", "setup", "silent", "offline", "gone", "stalled twice")
FORGIVEN = 24 * 3600.0


class Ledger:
    """Appends lines, one writer at a time; several drivers may share one file."""

    def __init__(self, path: Path, run: str, wall):
        self.path, self.run, self.wall = path, run, wall
        self._lock = threading.Lock()

    def _line_end(self) -> str:
        """What a line that a power loss has cut off lacks: the next must not be glued to it."""
        with open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            return "" if file.read() in (b"", b"\n") else "\n"

    def write(self, what: str, **facts) -> dict:
        line = {"what": what, "run": self.run, "time": round(self.wall(), 3), **facts}
        text = json.dumps(line, sort_keys=True) + "\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, (self._line_end() + text).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return line


def read(path: Path) -> list[dict]:
    """The lines of a ledger; a last line cut off by a power loss is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "what" in line:
            lines.append(line)
    return lines


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
