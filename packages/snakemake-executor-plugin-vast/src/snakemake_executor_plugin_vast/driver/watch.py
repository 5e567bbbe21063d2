"""How often to check a job, and what to do about what is observed. Pure functions.

A young job is checked often, since most failures happen early; then rarely, as long as it makes
progress; and often again after an alarming message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..market.protocol import Status
from ..settings import ExecutorSettings


@dataclass(frozen=True)
class Limits:
    """How long to wait for what, in seconds, and how many bytes to accept."""

    boot: float = 600.0  # from the order to the first ssh login
    stall: float = 1800.0  # no output, no step, and the GPU idle
    silent: float = 600.0  # no ssh contact with a machine that the market lists as running
    offline: float = 300.0  # the market lists the machine as offline
    unlisted: float = 90.0  # not in the list, and no answer by ssh
    sparse: float = 60.0  # between two checks of a job that makes progress
    dense: float = 5.0  # between two checks of any other job
    early: float = 300.0  # a job is young up to this age
    setup: float = 1800.0  # environment and sources, on a new machine
    idle: float = 300.0  # how long a machine waits for another job
    grace: float = 30.0  # from SIGTERM to SIGKILL
    farewell: float = 120.0  # at the driver's end, to save states
    end: float = 600.0  # at the driver's end, until the market lists no machine
    armed: float = 300.0  # between two checks of the dead-man switch, while a job runs
    transfer: float = 300.0  # in which a transfer must move at least 1 MiB
    output: float = 64 << 20  # bytes that are kept of what a job prints
    margin: float = 5e9  # bytes that may come home beyond the disk that a job requests


def limits_of(chosen: ExecutorSettings) -> Limits:
    """The limits that the settings name, and the defaults of the others."""
    return Limits(
        boot=chosen.boot_minutes * 60,
        setup=chosen.setup_minutes * 60,
        stall=chosen.stall_minutes * 60,
        silent=chosen.lost_minutes * 60,
        offline=chosen.lost_minutes * 30,
        idle=chosen.idle_minutes * 60,
        transfer=chosen.transfer_minutes * 60,
        output=chosen.output_mib * (1 << 20),
        margin=chosen.margin_gb * 1e9,
    )


@dataclass(frozen=True)
class Observation:
    """What is known of a running job. Times on the plugin's clock; None: never, or not known."""

    now: float
    started: float
    contact: float  # the last answer from the machine
    progress: float  # the last step, or line of output
    cap: float  # seconds that the job may run
    status: Status = "running"  # of the machine, from the market
    status_since: float | None = None
    listed: bool = True
    gpu_idle: bool | None = None
    alert: bool = False  # a traceback, or an error that may end the job
    unasked: float = 0.0  # seconds since `contact` without a look, as during sleep or a save


def seconds_to_next_look(observation: Observation, limits: Limits) -> float:
    """Seconds until the next check."""
    age = observation.now - observation.started
    quiet = observation.now - observation.progress > limits.stall / 4
    lost_contact = observation.now - observation.contact > 2 * limits.sparse
    if age < limits.early or lost_contact or observation.alert or observation.gpu_idle or quiet:
        return min(limits.dense, max(0.5, age / 20))  # so that short jobs need not wait
    return limits.sparse


def failure_reason(observation: Observation, limits: Limits) -> str | None:
    """Why to end the attempt now, or None to go on.

    gone, outbid, offline and silent are failures of the machine; overtime and stalled of the job.
    """
    # Nobody asked the machine meanwhile: it gets the time to answer that it always has.
    now = observation.now - observation.unasked
    # The list may be late: a machine that still answers is not gone.
    if not observation.listed and now - observation.contact > limits.unlisted:
        return "gone"
    if observation.status == "stopped":
        return "outbid"
    if observation.status == "offline":
        since = now if observation.status_since is None else observation.status_since
        # A machine that still answers is not lost, whatever the market lists.
        if min(now - since, now - observation.contact) > limits.offline:
            return "offline"
    if now - observation.contact > limits.silent:
        return "silent"
    if now - observation.started > observation.cap:
        return "overtime"
    if now - observation.progress > limits.stall and observation.gpu_idle is not False:
        return "stalled"
    return None


# Failures of the machine. The job continues on another one; Snakemake does not notice.
INFRASTRUCTURE = ("gone", "outbid", "offline", "silent", "killed", "transfer", "disarmed")


def next_action(why: str, times: int, retries: int, output: str = "") -> str:
    """What to do after an attempt ended for this reason for the `times`-th time (from 1).

    again: repeat, on another machine, or after a stall on the same one. prune: free disk space and
    repeat on the same machine. bigger: repeat on a machine with more disk. fail: report the failure
    to Snakemake, whose `--retries` decides.
    """
    if why == "stalled":
        return "again" if times == 1 else "fail"
    if why in INFRASTRUCTURE:
        return "again" if times <= retries else "fail"
    if why == "failed" and re.search(r"No space left on device|disk quota exceeded", output, re.I):
        return {1: "prune", 2: "bigger"}.get(times, "fail")
    return "fail"


def save_due(now: float, last: float, took: float, every: float, share: float) -> bool:
    """Whether to save the state again: every max(`every`, `share` x the last transfer's time)."""
    return now - last >= max(every, share * took)


ALERT = re.compile(
    r"Traceback \(most recent call last\)|CUDA error|out of memory|NCCL .*error", re.I
)


def alarming(output: str) -> bool:
    """Whether the output has an error after which the job may end soon."""
    return bool(ALERT.search(output))
