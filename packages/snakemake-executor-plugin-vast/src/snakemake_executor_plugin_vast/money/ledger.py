"""The ledger: an append-only file of what was rented, why it ended, and what it cost.

Each line is one JSON object, and is synced to disk before anything depends on it. `what` is the
kind of line, `dph` the price in dollars per hour:

- `intend`  a machine is about to be rented: `label`, `market`, `offer`, `machine`, `dph`,
            `seconds` promised
- `rent`    it was rented: `label`, `instance`, `dph`
- `promise` what its jobs may still take: `label`, `lived` so far, `seconds` from then on
- `attempt` a job ended on it: `attempt`, `job`, `label`, `offer`, `dph`, `seconds`, `dollars`,
            `why`, `ran` (seconds of the job itself), `wasted` (seconds lost), `wasted_dollars`
- `stop`    it was stopped, since its work is not saved: `label`, `instance`, `seconds` and
            `dollars` until then, `dph` of its disk, which is billed on
- `end`     the market no longer lists the machine: `label`, `seconds`, `dollars`, `why`

All arithmetic is in pure functions of the lines that `read` returns.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

# Reasons for an end after which the machine is not rented again for a while.
STALLED = "stalled twice"
BAD = ("boot", "fatal", "ssh", "smoke", "setup", "silent", "offline", "gone", "disarmed", STALLED)
AVOIDED = 24 * 3600.0  # seconds
LONGEST_LINE = 1 << 16  # bytes
NUMBER = int | float
# The fields of each kind of line that are computed with, and their types.
COMMON: dict[str, Any] = {"what": str, "run": str, "time": NUMBER}
MACHINE = {"label": str, "dph": NUMBER}
FIELDS: dict[str, dict[str, Any]] = {
    "intend": MACHINE | {"machine": int, "seconds": NUMBER},
    "rent": MACHINE,
    "promise": {"label": str, "lived": NUMBER, "seconds": NUMBER},
    "attempt": {"dph": NUMBER},
    "stop": MACHINE | {"seconds": NUMBER, "dollars": NUMBER},
    "end": {"label": str, "seconds": NUMBER, "dollars": NUMBER},
}


class Ledger:
    """Appends lines. Several drivers may write to one file; a lock orders them."""

    def __init__(self, path: Path, run: str, wall: Callable[[], float]) -> None:
        self.path, self.run, self.wall = path, run, wall
        self._lock = threading.Lock()

    def write(self, what: str, **facts: Any) -> dict[str, Any]:
        """Append a line; the line."""
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
    """Remove a last line that a power loss has cut off; end one that lacks its newline."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST_LINE))
    if last := file.read().rpartition(b"\n")[2]:
        try:
            json.loads(last)
            file.write(b"\n")
        except ValueError:
            file.truncate(size - len(last))


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger, none if there is no file.

    A last line that a power loss has cut off is left out with a warning. Raises ValueError with
    file and line for every other damaged line, since costs are computed from them.
    """
    if not path.is_file():
        return []
    records: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode().strip()
            if not text:
                continue
            record = json.loads(text)
            _check(record)
        except ValueError as error:
            if number == len(lines):
                warnings.warn(f"{path}, line {number}: cut off, left out", stacklevel=2)
                break
            raise ValueError(f"{path}, line {number}: {error}") from None
        records.append(record)
    return records


def _check(record: Any) -> None:
    """Raise ValueError for a line without the fields that are computed with."""
    if not isinstance(record, dict):
        raise ValueError(f"{str(record)[:60]} found, a JSON object was expected")
    fields = COMMON | FIELDS.get(str(record.get("what")), {})
    for name, kind in fields.items():
        if not isinstance(value := record.get(name), kind):
            expected = "text" if kind is str else "a number"
            raise ValueError(f"{name}: {str(value)[:60]} found, {expected} was expected")


@dataclass(frozen=True)
class Rental:
    """One machine in the ledger, from its `intend` line on."""

    label: str
    run: str
    dph: float
    since: float  # the time of its first line or of its stop, on the wall clock
    promised: float  # seconds that all its jobs together may take, from `since`
    instance: int | str | None = None
    dollars: float | None = None  # once it has ended
    seconds: float = 0.0  # until it was stopped or has ended
    paid: float = 0.0  # dollars until `since`
    disk: float | None = None  # dollars per hour of its disk, once it was stopped

    def spent(self, wall: float, scale: float = 1.0) -> float:
        """Dollars until `wall`. `scale`: seconds of the plugin's clock per real second."""
        if self.dollars is not None:
            return self.dollars
        rate = self.dph if self.disk is None else self.disk
        return self.paid + cost(rate, max(0.0, wall - self.since) * scale)

    def lived(self, wall: float, scale: float = 1.0) -> float:
        """Seconds until `wall`, without those in which it was stopped."""
        if self.disk is not None or self.dollars is not None:
            return self.seconds
        return max(0.0, wall - self.since) * scale


@dataclass(frozen=True)
class Account:
    """Dollars `spent` so far, `committed` to running machines, and `wasted` of those spent."""

    spent: float
    committed: float
    wasted: float

    def allows(self, estimate: float, budget: float | None) -> bool:
        """Whether spending `estimate` more dollars stays within the budget."""
        return budget is None or self.spent + self.committed + estimate <= budget + 1e-9


def rentals(lines: Iterable[dict[str, Any]]) -> dict[str, Rental]:
    """The rentals by their labels."""
    found: dict[str, Rental] = {}
    for line in lines:
        label, what = str(line.get("label")), line["what"]
        if what == "intend":
            promised = float(line["seconds"])
            found[label] = Rental(label, line["run"], float(line["dph"]), line["time"], promised)
        elif label in found:
            old = vars(found[label])
            if what == "rent":
                new = {"instance": line.get("instance"), "dph": float(line["dph"])}
            elif what == "promise":
                new = {"promised": float(line["lived"]) + float(line["seconds"])}
            elif what == "stop":
                new = {"disk": float(line["dph"]), "paid": float(line["dollars"])}
                new |= {"seconds": float(line["seconds"]), "since": line["time"], "promised": 0.0}
            elif what == "end":
                new = {"dollars": float(line["dollars"]), "seconds": float(line["seconds"])}
            else:
                new = {}
            found[label] = Rental(**old | new)
    return found


def account(lines: Iterable[dict[str, Any]], wall: float, scale: float = 1.0) -> Account:
    """What was spent and committed. `scale`: seconds of the plugin's clock per real second."""
    lines = list(lines)
    spent = committed = 0.0
    for rental in rentals(lines).values():
        spent += rental.spent(wall, scale)
        if rental.dollars is None:
            ahead = rental.promised - max(0.0, wall - rental.since) * scale
            committed += cost(rental.dph, max(0.0, ahead))
    wasted = sum(
        cost(line["dph"], line.get("wasted", 0.0)) for line in lines if line["what"] == "attempt"
    )
    return Account(spent, committed, wasted)


def cost(price: float, seconds: float) -> float:
    """Dollars for `seconds` at a price in dollars per hour."""
    return price * seconds / 3600


def open_rentals(lines: Iterable[dict[str, Any]]) -> list[Rental]:
    """Machines that were rented, or may have been, and have not ended."""
    return [rental for rental in rentals(lines).values() if rental.dollars is None]


def bad_machines(lines: Iterable[dict[str, Any]], wall: float) -> set[int]:
    """The machine ids that failed within the last day."""
    lines = list(lines)
    machine = {line["label"]: line["machine"] for line in lines if line["what"] == "intend"}
    return {
        machine[line["label"]]
        for line in lines
        if line["what"] == "end"
        and line.get("why", "").partition(":")[0] in BAD
        and machine.get(line.get("label"))
        and wall - line["time"] < AVOIDED
    }


def summary(lines: Iterable[dict[str, Any]], wall: float, scale: float = 1.0) -> str:
    """Machines, hours and dollars in one line."""
    lines = list(lines)
    found, money = rentals(lines), account(lines, wall, scale)
    hours = sum(rental.seconds for rental in found.values()) / 3600
    disks = [r.disk for r in found.values() if r.disk is not None and r.dollars is None]
    attempts = sum(line["what"] == "attempt" for line in lines)
    text = f"{len(found)} machines, {hours:.2f} h, {attempts} attempts, ${money.spent:.2f}"
    text += f" (${money.wasted:.2f} of it for lost work)"
    if disks:
        text += f", and ${24 * sum(disks):.2f} a day for the disks of {len(disks)} stopped machines"
    return text


def dollars_spent() -> float:
    """Dollars in all ledgers of the current folder so far; a ledger that is damaged counts nothing.

    The live display calls this, by the entry point `vast` of `snakemake_logger_plugin_live.costs`.
    """
    dollars = 0.0
    for file in sorted(Path().glob("ledger/*.jsonl")):
        with suppress(OSError, ValueError, KeyError):
            dollars += account(read(file), time.time()).spent
    return dollars
