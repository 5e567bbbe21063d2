"""Snakemake executor `vast`: GPU jobs on rented Vast.ai machines, all other jobs here.

This module only translates between Snakemake and `Pool`; docs/vast.md says how to use it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

from ablation.machine import GIT_STATE, git_state

from . import ledger as books
from .api import Vast, find_key
from .clock import Clock
from .jobs import look_again, task_of
from .keeper import Keeper
from .local_lane import LocalLane
from .offers import Wish, wish_of
from .permission import Permission
from .pool import Pool
from .rental import Renter, Site
from .runs import Run, reap
from .settings import ExecutorSettings, check, limits_of, market_of, setup_of, wish_default
from .transport import SECRET, Keyring, Transport, manifest
from .work import Pace

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    can_transfer_local_files=True,  # by `transport`: no bucket is needed
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=False,  # they go by stdin, not on a command line
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)
OPENS_BUCKETS = ("AWS_", "FSSPEC_")  # variables that reach what `state_uri` names
LARGEST_SOURCE = 100e6  # bytes
LONGEST = 10  # a machine may live that many times as long as a job: the last of several switches


class Executor(RemoteExecutor):
    """`run_job` only queues, `check_active_jobs` only reads, and neither ever raises."""

    def __post_init__(self):
        self.settings: ExecutorSettings = self.workflow.executor_settings or ExecutorSettings()
        check(self.settings)
        self.clock = Clock(self.settings.time_scale)
        self.next_seconds_between_status_checks = 0.2  # nothing is asked: outcomes lie ready
        self.workdir = Path.cwd()
        self.closing, self._closed = threading.Event(), threading.Lock()
        self.run_: Run | None = None
        self.pool: Pool | None = None
        self.permission = Permission(self.settings, self._say)
        self.lane = LocalLane(self.settings.local_cores or os.cpu_count() or 1, self._logs())
        self._python = "python"
        self._ready = False
        self._environment = dict(os.environ)
        for name in SECRET:  # no child process shall have them, Snakemake's own included
            os.environ.pop(name, None)

    def _logs(self) -> Path:
        return self.workdir / ".snakemake" / "vast" / "logs"

    def get_python_executable(self):
        return self._python

    # ---- jobs ----------------------------------------------------------------------------------

    def run_job(self, job):
        rent = self._rents(job)
        self._python = "python" if rent else sys.executable
        info = SubmittedJobInfo(job, aux={})
        try:
            self._catch_signals()
            environment = {k: v for k, v in self.envvars().items() if k not in SECRET}
            task = task_of(job, self.format_job_exec(job), environment, self.dag)
            info.aux["task"] = task
            if rent:
                task.environment[GIT_STATE] = json.dumps(git_state(self.workdir))
                task.wish = self._wish(job)
                self._pool().submit(task)
            else:
                self.lane.submit(task, job.threads)
        except Exception as fault:  # raised here it would end the whole workflow
            info.aux["problem"] = f"{type(fault).__name__}: {fault}"
        self.report_job_submission(info)

    async def check_active_jobs(self, active_jobs):
        for info in active_jobs:
            task, problem = info.aux.get("task"), info.aux.get("problem")
            outcome = task.outcome if task else None
            if problem:
                self.report_job_error(info, msg=f"{problem} ")
            elif outcome is None:
                yield info
            elif outcome.why:
                tail = "\n".join(outcome.output.splitlines()[-40:])
                logs = [outcome.log] if outcome.log else []
                self.report_job_error(info, msg=f"{outcome.why}\n{tail}\n", aux_logs=logs)
            else:
                look_again(info.job, self.dag)
                self.report_job_success(info)

    def _preemptible(self, job) -> bool:
        """Whether Snakemake was told that every rule of the job may lose its machine."""
        rules = self.workflow.remote_execution_settings.preemptible_rules
        names = job.rules if job.is_group() else [job.rule.name]
        return all(rules.is_preemptible(name) for name in names)

    # ---- the run -------------------------------------------------------------------------------

    def _pool(self) -> Pool:
        """Made with the first job that rents: without one, no key is needed."""
        if self.pool is None:
            renting = [job for job in self.dag.needrun_jobs() if self._rents(job)]
            most = max(map(self._wish, renting), key=lambda w: (w.gpus, w.gpu_mem_mb, w.disk_gb))
            self.permission.get(
                [(job.rule.name, dict(job.wildcards)) for job in renting],
                self.workflow.config,
                self.workflow.overwrite_configfiles,
                most,
                lambda query: self._api().search(query),
            )
            self.pool = self._make_pool(self._api())
        return self.pool

    def _api(self) -> Vast:
        return Vast(find_key(self._environment, Path.home()), clock=self.clock)

    def _wish(self, job) -> Wish:
        return wish_of(job.resources, wish_default(self.settings, self._preemptible(job)))

    def _rents(self, job) -> bool:
        return bool(job.resources.get("gpu")) or self.settings.cpu_jobs == "rent"

    def _make_pool(self, api: Vast) -> Pool:
        chosen, clock, log = self.settings, self.clock, self._say
        study = str(self.workflow.config.get("study") or "study")
        path = Path(chosen.ledger.format(study=study)).absolute()
        self.run_ = Run(self.workdir, path, clock.scale)
        self.ledger = books.Ledger(path, self.run_.name, clock.wall)
        self.keeper = Keeper(api, self.run_.prefix, clock, log=log)
        self.keys = Keyring(self.run_.folder)
        Transport(self.keys, "check", ("localhost", 22)).check()
        limits = self.limits = limits_of(chosen)
        known = sorted(self.dag.get_sources())
        site = Site(
            str(self.workdir), chosen.image, setup_of(chosen), chosen.activate, chosen.smoke,
            lambda: self._sources(known), chosen.silent_minutes * 60, chosen.keep_hours * 3600,
            LONGEST * chosen.max_hours * 3600, self._environment.get("VAST_IMAGE_LOGIN", ""),
            chosen.state_uri.rstrip("/"),
            {k: v for k, v in os.environ.items() if k.startswith(OPENS_BUCKETS)},
        )  # fmt: skip

        def first() -> None:
            try:
                for label in reap(self.workdir, lambda: api, log):
                    log(f"{label} of an earlier run is still listed: see `ablation reap`")
            except Exception as fault:  # an old run must not keep a new one from its work
                log(f"machines of earlier runs could not be looked for: {fault!r}")

        self.renter = Renter(
            api, self.keeper, self.ledger, clock, self.keys, site, market_of(chosen), limits,
            chosen.budget or None, self.closing, log, first,
        )  # fmt: skip
        again = self.workflow.remote_execution_settings.preemptible_retries
        return Pool(
            self.renter, self.keeper, self.ledger, clock, limits,
            Pace(chosen.state_minutes * 60, chosen.state_share), self._logs(),
            chosen.max_machines, chosen.retries, chosen.lost_bids if again is None else again,
            self.closing, log,
        )  # fmt: skip

    def _sources(self, known: list[str]) -> list[str]:
        kept, left_out = manifest(self.workdir, known, LARGEST_SOURCE)
        for name in left_out:
            self._say(f"not sent to machines: {name}")
        return kept

    def _say(self, text: str) -> None:
        self.logger.info(f"vast: {text}")

    # ---- the end -------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        """SIGTERM and SIGHUP end the run as Ctrl-C does, from the first job on."""
        if self._ready:
            return
        self._ready = True
        atexit.register(self._close)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.default_int_handler)

    def cancel_jobs(self, active_jobs):
        """What is to be ended stands in our own registry: Snakemake's list may be empty here."""
        self._close()

    def shutdown(self):
        self._close()
        with self._told():
            super().shutdown()

    def _close(self) -> None:
        """End everything, once. Signals that come meanwhile cannot keep machines alive."""
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {n: signal.signal(n, signal.SIG_IGN) for n in numbers} if main else {}
        try:
            with self._closed:
                self.lane.close()
                if self.pool is not None:
                    pool, self.pool = self.pool, None
                    self._end(pool)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, pool: Pool) -> None:
        """Whatever goes wrong with jobs or books, machines are ended."""
        left = ["?"]
        with self._told():
            pool.close()
        with self._told():
            left = self.keeper.end_all(self.limits.end)
        if left:
            self._say(
                f"STILL LISTED, and billed: {' '.join(left)} ({self.keeper.failed}). Call "
                "`ablation reap` until none is left; each also ends itself when it hears nothing."
            )
        with self._told():
            if not left:
                self.renter.settle()
            self._sum_up()
        self.keys.forget()
        self.run_.over(left)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as fault:
            self._say(f"{type(fault).__name__}: {fault}")

    def _sum_up(self) -> None:
        lines = books.read(self.ledger.path)
        mine = [line for line in lines if line["run"] == self.ledger.run]
        scale, wall = self.clock.scale, self.clock.wall()
        self._say(f"this run: {books.summary(mine, wall, scale)}")
        self._say(f"all runs of this study: {books.summary(lines, wall, scale)}")
