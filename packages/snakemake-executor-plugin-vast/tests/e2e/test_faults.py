"""After every fault the results are right, no machine is left and little work is lost."""

import json
import os
from pathlib import Path

import pytest
from fakes.vast import what_is_missing
from vast_support.driver_scenarios import SCENARIOS
from vast_support.scenarios import run_scenario
from vast_support.workflows import expected_report

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]


# Why a machine or an attempt ends with this fault: one of these reasons.
WHY = {
    "offer taken": {"taken: never rented"},
    "contract dearer than its offer": {"contract"},
    "create 500": {"refused: never rented"},
    "boot stuck": {"boot"},
    "boot fatal": {"fatal"},
    "host vanished in mid-job": {"offline", "silent"},
    "container exited in mid-job": {"outbid"},
    "outbid in mid-job": {"outbid"},
    "job stalls": {"stalled"},
    "job exit 1": {"failed"},
    "output missing": {"failed"},
    "flood": {"overtime"},
    "disk full": {"failed"},
    "driver SIGTERM": {"ended"},
    "driver SIGHUP": {"ended"},
    "Ctrl-C during a status check": {"ended"},
    "SIGKILL, then restart": {"driver killed"},
    "SIGKILL, then `snakemake-vast reap`": {"driver killed"},
    "SIGKILL and keys forgotten, then `snakemake-vast reap`": {"driver killed"},
    "SIGKILL and container exited, then `snakemake-vast reap`": {"driver killed"},
    "SIGKILL and GPU let to others, then `snakemake-vast reap` twice": {"driver killed"},
    "SIGKILL and ssh refused, then `snakemake-vast reap --destroy`": {"driver killed"},
    "SIGKILL, nobody restarts": {"driver killed"},
    "driver SIGTERM while ssh is dead": {"ended"},
    "this computer sleeps, the job is ended": {"killed"},
    "dead-man switch without its rights": {"disarmed"},
    "dead-man switch killed in mid-job": {"disarmed"},
    "budget reached": {"budget"},
    "two drivers at once": {"ended", "taken: never rented"},  # both may have asked for one offer
}
# RunPod starts a container again whose command has ended, and the job is gone. Nothing but the job
# fills its mounted disk, so there may be no room for an exit code.
WHY_THERE = {
    "runpod": {
        "container exited in mid-job": {"killed", "silent"},
        "disk full": {"failed", "killed"},
    }
}
WELL = {"ended", "idle", "restarted"}  # of a machine without a fault
CASES = [(name, market) for name, (_, markets, _) in SCENARIOS.items() for market in markets]


@pytest.mark.parametrize("name, market", CASES)
def test_fault(name, market, tmp_path):
    result = run_scenario(name, tmp_path, market)
    if folder := os.environ.get("FAULT_RESULTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = f"{market}_{name.replace(' ', '_').replace('/', '_')}.json"
        (Path(folder) / file).write_text(json.dumps(result))
    reasons = WHY | WHY_THERE.get(market, {})
    assert result["left"] == 0
    assert result["report"] == expected_report()
    assert result["lost_steps"] <= 12
    if name in reasons:
        assert reasons[name] & {*result["ends"], *result["reasons"]}, result
    else:  # this fault costs no machine and no attempt
        assert set(result["ends"]) <= WELL and not result["reasons"], result
    assert result["booked"] >= 0.97 * result["spent"]
