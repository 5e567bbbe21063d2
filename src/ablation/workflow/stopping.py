"""How a run of Snakemake ends early: in three lines, without living jobs and without its lock.

Left alone, Snakemake dies of a lost terminal with its lock in place, waits for all running jobs
after SIGTERM, and reports each job that Ctrl-C ended as one that failed.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

import psutil

from ablation.console.printable import printable
from ablation.provenance.endings import AGAIN, REPORTED, RUN, STOPPED, STOPS
from ablation.training.checkpoints import complete_checkpoints

STATE = Path("state")
# How Snakemake says that a job was killed, or the shell around it says so.
KILLED = re.compile(r"died with <Signals\.SIGKILL|non-zero exit status 137\.")
# Of the shells of jobs. A terminal sends Ctrl-C to jobs too, and they ignore it: their Snakemake
# ends them by SIGTERM, unless it ignores Ctrl-C itself, as in the background of a script.
JOB_PREFIX = "set -euo pipefail; trap '' INT; "
# What Snakemake says at the end of a run in which a job failed.
LAST_WORDS = ("Exiting because a job execution failed", "At least one job did not complete")
REPORT_SECONDS = 1.0  # in which the message of a stop is written
PATIENCE = 20.0  # seconds until a job that does not end is killed; checkpoints are safe from that


def stop_in_three_lines(log: logging.Logger, study: str) -> None:
    """Let the signals of `STOPS` end this process as Ctrl-C does, with three lines in `log`.

    `log` is Snakemake's own. Its jobs are children of this process. A signal that is ignored
    already stays so, such as SIGHUP below nohup, and SIGINT after `snakemake &` in a script: there
    Ctrl-C is for what runs in the foreground.
    """
    stopping = _Stopping(log, study)
    for number in STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stopping.stop)
    log.addFilter(stopping)
    os.environ[RUN] = str(os.getpid())


def stop_without_terminal() -> None:
    """Let a lost terminal end this process as Ctrl-C does; its executor then cancels its jobs."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


class _Stopping(logging.Filter):
    """The handler of signals, and the filter that drops what Snakemake says of reported jobs."""

    def __init__(self, log: logging.Logger, study: str) -> None:
        super().__init__()
        self.log, self.study = log, study
        self.deadline: float | None = None  # None until the run is stopped
        self.message: str | None = None
        self.failed_otherwise = False  # whether a job has failed without a message of its own
        self.status = threading.local()  # exit status, in each thread that waits for a job

    def stop(self, number: int, _: object) -> None:
        """End all jobs, report and raise KeyboardInterrupt. A second signal kills the jobs."""
        if self.deadline is not None:
            self.deadline = 0.0
            return
        self.deadline = time.monotonic() + PATIENCE
        jobs: set[psutil.Process] = set()
        while jobs := {job for job in jobs | end_children(jobs) if _alive(job)}:
            if time.monotonic() >= self.deadline:
                break
            time.sleep(0.05)
        for job in jobs:
            with suppress(psutil.NoSuchProcess):
                job.kill()
        threading.Thread(target=_end_late_jobs, daemon=True).start()
        what = STOPS[signal.Signals(number)]
        self.message = f"{what[0].upper()}{what[1:]}.\n{kept(self.study)}\n{AGAIN}"
        # The signal may have come while this thread held the lock of Snakemake's queue of messages,
        # for which it would wait forever here.
        report = threading.Thread(target=self.log.error, args=(self.message,), daemon=True)
        report.start()
        report.join(REPORT_SECONDS)
        raise KeyboardInterrupt

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether Snakemake's message is shown; that of a killed job is replaced."""
        text = record.getMessage()
        if self.deadline is not None:
            return text == self.message
        if record.levelno < logging.ERROR:
            return True
        if KILLED.search(text):
            self.status.of_job = signal.SIGKILL
            return False
        for status in (REPORTED, STOPPED):
            if f"non-zero exit status {status}." in text:
                self.status.of_job = status
                return False
        status_of_job, self.status.of_job = getattr(self.status, "of_job", None), None
        if status_of_job in (signal.SIGKILL, STOPPED):
            message = self._killed(record, by_kill=status_of_job == signal.SIGKILL)
            record.msg, record.args, record.event = message, (), None
            return True
        if status_of_job == REPORTED:
            return False
        if any(words in text for words in LAST_WORDS):
            return self.failed_otherwise
        self.failed_otherwise = True
        return True

    def _killed(self, record: logging.LogRecord, by_kill: bool) -> str:
        rule = getattr(record, "rule_name", None) or "a job"
        if not by_kill:
            what = "the job was stopped by a signal to it alone; its log names the signal."
            return f"{rule}: {what}\n{kept(self.study)}\n{AGAIN}"
        return (
            f"{rule}: the job was killed (SIGKILL), most often for want of memory.\n"
            f"{kept(self.study)}\nGive Snakemake fewer --cores. {AGAIN}"
        )


def end_children(known: Container[psutil.Process] = ()) -> set[psutil.Process]:
    """Send SIGTERM to the jobs of this process but for `known` ones, and return them.

    Shells come first. Ranks of a training are in sessions of their own, and end with their job.
    """
    children = psutil.Process().children(recursive=True)
    jobs = [child for child in children if child not in known and _same_group(child)]
    for job in jobs:
        with suppress(psutil.NoSuchProcess):
            job.terminate()
    return set(jobs)


def _end_late_jobs() -> None:
    """End jobs that threads of Snakemake start after a stop; it would wait until they are done."""
    known: set[psutil.Process] = set()
    while True:
        known |= end_children(known)
        time.sleep(0.1)


def _same_group(process: psutil.Process) -> bool:
    try:
        return os.getpgid(process.pid) == os.getpgrp()
    except ProcessLookupError:
        return False


def _alive(process: psutil.Process) -> bool:
    """Whether a process has not ended. It is not waited for, since Snakemake does that."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kept(study: str, most: int = 4) -> str:
    """One line that says up to which steps the unfinished trainings of a study are kept."""
    trainings = []
    for home in sorted((STATE / study).glob("*")):
        recipe, _, seed = home.name.rpartition("-")[0].rpartition("-")
        with suppress(OSError, ValueError):  # a folder that no training has made
            if saved := complete_checkpoints(home):
                step = saved[-1].name.rpartition("-")[2]
                trainings.append(printable(f"{recipe} seed {seed} up to step {step}"))
    if not trainings:
        return "Finished results are kept; no step of an unfinished training is saved yet."
    more = f" and {len(trainings) - most} more" if len(trainings) > most else ""
    named = ", ".join(trainings[:most])
    return f"Finished results are kept, and unfinished trainings: {named}{more}."
