"""Every fault: the study ends right, no machine is left, little is lost."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.fakes.vast import what_is_missing

from .rows import ROWS, play

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]


def expected(steps: int = 24) -> str:
    """The report of an undisturbed study, computed here."""
    items = "one\ntwo\nthree\n"
    weights = hashlib.sha256(items.encode()).hexdigest()
    for step in range(1, steps + 1):
        weights = hashlib.sha256(f"{weights} {step}".encode()).hexdigest()
    scored = hashlib.sha256((weights + items).encode()).hexdigest() + "  -"
    table = f"{scored}\t3"
    return f"{table}\n{table[::-1]}\n"


# By what each fault is told apart: why a machine ended, or an attempt; one of these.
WHY = {
    "offer taken": {"taken: never rented"},
    "create 500": {"refused: never rented"},
    "boot stuck": {"boot"},
    "boot fatal": {"fatal"},
    "host vanished in mid-job": {"offline", "silent"},
    "outbid in mid-job": {"outbid"},
    "job stalls": {"stalled"},
    "job exit 1": {"failed"},
    "output missing": {"failed"},
    "disk full": {"failed"},
    "driver SIGTERM": {"ended"},
    "driver SIGHUP": {"ended"},
    "Ctrl-C during a status check": {"ended"},
    "SIGKILL, then restart": {"driver killed"},
    "SIGKILL, then `ablation reap`": {"driver killed"},
    "SIGKILL, nobody restarts": {"driver killed"},
    "budget reached": {"budget"},
    "two drivers at once": {"ended", "taken: never rented"},  # both may have asked for one offer
}
WELL = {"ended", "idle"}  # of a machine that nothing was wrong with


@pytest.mark.parametrize("name", ROWS)
def test_fault(name, tmp_path):
    row = play(name, tmp_path)
    if folder := os.environ.get("FAULT_ROWS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name.replace(' ', '_').replace('/', '_')}.json").write_text(
            json.dumps(row)
        )
    assert row["left"] == 0
    assert row["report"] == expected()
    assert row["lost_steps"] <= 12
    if name in WHY:
        assert WHY[name] & {*row["ends"], *row["reasons"]}, row
    else:  # a fault that costs no machine and no attempt
        assert set(row["ends"]) <= WELL and not row["reasons"], row
    # the ledger is no lower than what was billed, but for the transfers, which it does not know
    assert row["booked"] >= 0.97 * row["spent"] - 0.01
