"""When to look at a job, and what to make of what is seen. Pure functions.

Dense looks at first, since most faults show early; sparse ones once steps follow each other;
dense again on alert.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of patience, in seconds."""

    boot: float = 600.0  # from the create to the first ssh login
    stall: float = 1800.0  # no output, no step, and the GPU idle
    silent: float = 600.0  # no ssh contact with a machine that the API calls running
    offline: float = 300.0  # the API says offline or unknown
    unlisted: float = 90.0  # not in the list, and no answer
    sparse: float = 60.0
    dense: float = 5.0
    early: float = 300.0  # a young job is watched densely
    setup: float = 1800.0  # environment and sources, on a new machine
    lease: float = 60.0  # how often the driver shows the machine that it lives
    idle: float = 300.0  # how long a machine waits for another job
    grace: float = 30.0  # from SIGTERM to SIGKILL
    farewell: float = 120.0  # at the driver's end, for states to come home
    end: float = 600.0  # at the driver's end, for the API to confirm that all is gone


@dataclass(frozen=True)
class Sight:
    """What is known of a running job. Moments on the plugin's clock; None: never, or not known."""

    now: float
    started: float
    contact: float  # the last answer from the machine
    progress: float  # the last step, or line of output
    cap: float  # seconds that the job may run
    status: str | None = "running"  # of the machine, from the API
    status_since: float | None = None
    listed: bool = True
    gpu_idle: bool | None = None
    alert: bool = False  # a traceback, or an error that may end the job


def look_again(sight: Sight, limits: Limits) -> float:
    """Seconds until the next look."""
    age = sight.now - sight.started
    quiet = sight.now - sight.progress > limits.stall / 4
    lost_contact = sight.now - sight.contact > 2 * limits.sparse
    if age < limits.early or lost_contact or sight.alert or sight.gpu_idle or quiet:
        return min(limits.dense, max(0.5, age / 20))  # short jobs are not kept waiting
    return limits.sparse


def verdict(sight: Sight, limits: Limits) -> str | None:
    """Why to end the attempt now: gone, outbid, offline, silent, overtime, stalled; or None."""
    # A listing may be late: what still answers is not gone.
    if not sight.listed and sight.now - sight.contact > limits.unlisted:
        return "gone"
    if sight.status in ("stopped", "exited", "frozen"):
        return "outbid"
    if sight.status in ("offline", "unknown"):
        since = sight.now if sight.status_since is None else sight.status_since
        # A machine that still answers is not lost, whatever the API has heard.
        if min(sight.now - since, sight.now - sight.contact) > limits.offline:
            return "offline"
    if sight.now - sight.contact > limits.silent:
        return "silent"
    if sight.now - sight.started > sight.cap:
        return "overtime"
    if sight.now - sight.progress > limits.stall and sight.gpu_idle is not False:
        return "stalled"
    return None


# Faults of the machine: the attempt costs the job nothing, another machine takes it over.
INFRASTRUCTURE = ("gone", "outbid", "offline", "silent", "killed", "transfer")


def remedy(why: str, times: int, retries: int, output: str = "") -> str:
    """What to do after the `times`-th end for this reason (from 1): again, prune, bigger or fail.

    again: on another machine, or after a stall on the same one. prune: the same machine with room
    made. bigger: another machine with more disk. fail: the rule's own fault, Snakemake decides.
    """
    if why == "stalled":
        return "again" if times == 1 else "fail"
    if why in INFRASTRUCTURE:
        return "again" if times <= retries else "fail"
    if why == "failed" and re.search(r"No space left on device|disk quota exceeded", output, re.I):
        return {1: "prune", 2: "bigger"}.get(times, "fail")
    return "fail"


def carry_home_due(now: float, last: float, took: float, every: float, share: float) -> bool:
    """Whether the state should come home again: every max(`every`, `share` x the last transfer)."""
    return now - last >= max(every, share * took)


ALERT = re.compile(
    r"Traceback \(most recent call last\)|CUDA error|out of memory|NCCL .*error", re.I
)


def alarming(output: str) -> bool:
    return bool(ALERT.search(output))
