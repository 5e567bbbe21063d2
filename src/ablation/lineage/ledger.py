"""Reads ledgers of rented machines: the time and the cost of each attempt at a job.

A ledger is a file of the `vast` executor with one JSON object in each line, one for each event. A
line with `what: attempt` is the end of an attempt, with `attempt`, `job`, `why` (`done` if the job
succeeded), `seconds` and `dollars`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ablation.data.json_lines import read_json_lines
from ablation.provenance.manifests import StaleInput

LEDGERS = "ledger/*.jsonl"  # one file for each study


def ledger_attempts(ledgers: Iterable[Path]) -> dict[str, list[dict]]:
    """{successful attempt: the lines of all attempts that its job needed, itself the last}.

    A job that runs again later starts a new list. Raises StaleInput for a ledger that is missing or
    damaged.
    """
    try:
        lines = [
            line
            for file in ledgers
            for line in read_json_lines(file, _check_line, appended=True)
            if _is_attempt(line)
        ]
    except (ValueError, FileNotFoundError) as error:
        raise StaleInput(
            f"the ledger cannot be read: {error}. Mend or restore it, or name another by --ledger"
        ) from None
    found: dict[str, list[dict]] = {}
    unfinished: dict[str, list[dict]] = {}
    for line in lines:
        unfinished.setdefault(line["job"], []).append(line)
        if line.get("why") == "done":
            found[line["attempt"]] = unfinished.pop(line["job"])
    return found


def _is_attempt(line: Mapping) -> bool:
    return line.get("what") == "attempt"


def _check_line(line: Mapping) -> None:
    lacking = {"attempt", "job"} - set(line)
    if _is_attempt(line) and lacking:
        raise ValueError(f"an attempt without {', '.join(sorted(lacking))}")
