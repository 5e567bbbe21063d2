"""Snakemake executor `vast`: GPU jobs on rented machines, all other jobs on this computer.

This module only translates between Snakemake and `driver.pool.Pool`. README.md is the manual.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

from .clock import Clock
from .driver.jobs import forget_bucket_folders, task_of
from .driver.keeper import Keeper
from .driver.local_lane import LocalLane
from .driver.machines import Site
from .driver.pool import Pool
from .driver.rental import Renter
from .driver.runs import (
    PLACE,
    STATES,
    Left,
    Run,
    dead_runs,
    dollars_a_day,
    next_steps,
    reap,
    stopped_machines,
)
from .driver.states import Places
from .driver.watch import limits_of
from .driver.work import Pace
from .hooks import Hooks, NotAllowed, RentalRequest, RentedJob, Workflow
from .machine.files import manifest
from .machine.transport import Keyring, Transport, check_programs
from .market import connect, secrets_of, take_secrets
from .market.protocol import AccountRefused, Market, Requirements
from .market.selection import PricedOffer, priced, rank, requirements_of
from .market.several import parts, problems
from .money import ledger as books
from .money.permission import Permission, credit_note
from .settings import (
    ExecutorSettings,
    check,
    check_image,
    default_requirements,
    search_rules,
    setup_commands,
)
from .terminal import printable

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
BUCKET_VARIABLES = ("AWS_", "FSSPEC_")  # prefixes of variables with the keys of `state_uri`
OVER_BUDGET = "budget of $"  # how the text of an OverBudget begins, which a job's outcome keeps
LARGEST_SOURCE = 100e6  # bytes
LONGEST = 10  # a machine destroys itself after this many times `max_hours`


class Executor(RemoteExecutor):
    """`run_job` only queues jobs, `check_active_jobs` only reads outcomes, and neither raises."""

    # A check only reads outcomes. The first wait begins before `__post_init__` is called.
    next_seconds_between_status_checks = 0.2

    def __post_init__(self) -> None:
        self.settings: ExecutorSettings = self.workflow.executor_settings or ExecutorSettings()
        check(self.settings)
        self.clock = Clock(self.settings.time_scale)
        self.workdir = Path.cwd()
        self.closing, self._closed = threading.Event(), threading.Lock()
        self.run_: Run | None = None
        self._earlier: Left | None = None  # what earlier runs have left, once that is known
        self.pool: Pool | None = None
        self.permission = Permission()
        self.hooks: Hooks | None = None  # loaded with the pool
        self.lane = LocalLane(self.settings.local_cores or os.cpu_count() or 1, self._logs())
        self._python = "python"
        self._catches_signals = False
        # No child process may inherit the market's secrets, Snakemake's own included.
        self._environment = take_secrets(self.settings.market, os.environ)

    def _logs(self) -> Path:
        return self.workdir / PLACE / "logs"

    def get_python_executable(self) -> str:
        return self._python

    # ---- jobs ----------------------------------------------------------------------------------

    def run_job(self, job: Any) -> None:
        rent = self._needs_machine(job)
        self._python = "python" if rent else sys.executable
        info = SubmittedJobInfo(job, aux={})
        try:
            self._catch_signals()
            secrets = secrets_of(self.settings.market)
            environment = {k: v for k, v in self.envvars().items() if k not in secrets}
            task = task_of(job, self.format_job_exec(job), environment, self.dag)
            info.aux["task"] = task
            if rent:
                task.requirements = self._requirements(job)
                self._open_pool().submit(task)
            else:
                self.lane.submit(task, job.threads)
        except Exception as error:  # an exception here would end the whole workflow
            info.aux["problem"] = f"{type(error).__name__}: {error}"
        self.report_job_submission(info)

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        for info in active_jobs:
            task, problem = info.aux.get("task"), info.aux.get("problem")
            outcome = task.outcome if task else None
            if problem:
                self.report_job_error(info, msg=printable(f"{problem} "))
            elif outcome is None:
                yield info
            elif outcome.why:
                tail = "\n".join(outcome.output.splitlines()[-40:])
                logs = [outcome.log] if outcome.log else []
                if self.hooks and outcome.why.startswith(OVER_BUDGET):
                    with self._report_errors():
                        self.hooks.over_budget(outcome.why)
                said = printable(f"{outcome.why}\n{tail}\n")
                self.report_job_error(info, msg=said, aux_logs=logs)
            else:
                forget_bucket_folders(info.job, self.dag)
                self.report_job_success(info)

    def _needs_machine(self, job: Any) -> bool:
        return bool(job.resources.get("gpu")) or self.settings.cpu_jobs == "rent"

    def _requirements(self, job: Any) -> Requirements:
        defaults = default_requirements(self.settings, self._preemptible(job))
        return requirements_of(job.resources, defaults)

    def _preemptible(self, job: Any) -> bool:
        """Whether `--preemptible-rules` names every rule of the job."""
        rules = self.workflow.remote_execution_settings.preemptible_rules
        names = job.rules if job.is_group() else [job.rule.name]
        return all(rules.is_preemptible(name) for name in names)

    # ---- the run -------------------------------------------------------------------------------

    def _open_pool(self) -> Pool:
        """The pool, made for the first job that needs a machine: before it no key is needed."""
        if self.pool is None:
            check_programs()
            check_image(self.settings.image, self.workdir)
            files = [Path(file) for file in self.workflow.overwrite_configfiles]
            hooks = self.hooks = Hooks(Workflow(self.workdir, self.workflow.config, files))
            market = self._connect(self.settings.market)
            self.permission.get(self._request(market), hooks)
            self.pool = self._make_pool(market, hooks)
        return self.pool

    def _request(self, market: Market) -> RentalRequest:
        jobs = [
            RentedJob(job.rule.name, dict(job.wildcards), self._requirements(job))
            for job in self.dag.needrun_jobs()
            if self._needs_machine(job)
        ]
        rules = search_rules(self.settings)

        def offers() -> list[PricedOffer]:
            wanted = request.most_demanding
            try:
                ranked = rank(market.search(wanted, rules), wanted, rules)
            except AccountRefused as refusal:  # nobody need be asked for money
                raise NotAllowed(f"Nothing was rented: {refusal}") from None
            return [priced(offer, wanted, rules) for offer in ranked]

        request = RentalRequest(
            jobs, self.settings, offers, self._log, partial(self._notes, market)
        )
        return request

    def _notes(self, market: Market) -> list[str]:
        """What the account has, and what machines of earlier runs in this folder cost."""
        try:
            notes = [credit_note(one.credit(), name) for name, one in parts(market).items()]
            notes += [f"{name} is left out: {said}" for name, said in problems(market).items()]
            if stopped := stopped_machines(self.workdir, market):
                notes.append(
                    f"{len(stopped)} stopped machines of earlier runs cost "
                    f"${dollars_a_day(stopped):.2f} a day for their disks. Before the first rental "
                    "they are started to save their work, and destroyed."
                )
        except Exception as error:  # nobody is kept from renting by this
            return [f"The market did not say what the account has: {error}"]
        return notes

    def _make_pool(self, market: Market, hooks: Hooks) -> Pool:
        chosen, clock, log = self.settings, self.clock, self._log
        study = str(self.workflow.config.get("study") or "study")
        path = Path(chosen.ledger.format(study=study)).absolute()
        self.run_ = Run(self.workdir, path, chosen.market, clock.scale)
        self.ledger = books.Ledger(path, self.run_.name, clock.wall)
        self.keeper = Keeper(market, self.run_.prefix, clock, log=log)
        self.keys = Keyring(self.run_.folder)
        Transport(self.keys, "check", ("localhost", 22)).check()
        limits = self.limits = limits_of(chosen)
        known = sorted(self.dag.get_sources())
        site = Site(
            workdir=str(self.workdir),
            image=chosen.image,
            setup=setup_commands(chosen, hooks.setup()),
            activate=chosen.activate,
            smoke=chosen.smoke,
            sources=lambda: self._sources(known),
            silent=chosen.silent_minutes * 60,
            later=chosen.keep_hours * 3600,
            longest=LONGEST * chosen.max_hours * 3600,
            market=chosen.market,
            bucket=chosen.state_uri.rstrip("/"),
            access={k: v for k, v in os.environ.items() if k.startswith(BUCKET_VARIABLES)},
            job_environment=hooks.job_environment,
        )

        self.renter = Renter(
            market, self.keeper, self.ledger, clock, self.keys, site, search_rules(chosen), limits,
            chosen.budget or None, self.closing, log, partial(self._barred, market),
        )  # fmt: skip

        def earlier_places() -> list[Path]:
            return [folder / STATES for folder in dead_runs(self.workdir)]

        bids = self.workflow.remote_execution_settings.preemptible_retries
        return Pool(
            self.renter, self.keeper, self.ledger, clock, limits,
            Pace(chosen.state_minutes * 60, chosen.state_share), self._logs(),
            chosen.max_machines, chosen.retries, chosen.lost_bids if bids is None else bids,
            self.closing, log, Places(self.run_.folder / STATES, earlier_places),
        )  # fmt: skip

    def _barred(self, market: Market) -> str:
        """Why no machine may be rented; empty if one may. First it ends those of earlier runs."""
        if self._earlier is None:
            self._earlier = self._reap_earlier_runs(market)
        stopped = [*self._earlier.stopped, *self.keeper.stopped.values()]
        if dollars_a_day(stopped) <= self.settings.stopped_dollars:
            return ""
        return (
            f"the disks of {len(stopped)} stopped machines cost ${dollars_a_day(stopped):.2f} a "
            f"day, and --vast-stopped-dollars allows ${self.settings.stopped_dollars:.2f}; nothing "
            "was rented. Call `snakemake-vast reap`, which says how to save or destroy each of them"
        )

    def _reap_earlier_runs(self, market: Market) -> Left:
        """End the machines of earlier runs, and say what is left of them."""

        def known(names: str) -> Market:
            return market if names == self.settings.market else self._connect(names)

        left = reap(self.workdir, known, self._log)
        for problem in left.problems:  # an old run must not stop a new one
            self._log(f"machines of an earlier run could not be ended: {problem}")
        for label in left.listed:
            self._log(f"{label} of an earlier run is still listed: call `snakemake-vast reap`")
        for text in next_steps(left.stopped):
            self._log(text)
        return left

    def _connect(self, names: str) -> Market:
        return connect(names, self._environment, Path.home(), self.clock)

    def _sources(self, known: list[str]) -> list[str]:
        kept, left_out = manifest(self.workdir, known, LARGEST_SOURCE)
        for name in left_out:
            self._log(f"not copied to machines: {name}")
        return kept

    def _log(self, text: str) -> None:
        self.logger.info(printable(f"vast: {text}"))

    # ---- the end -------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        """SIGTERM and SIGHUP end the run as Ctrl-C does, from the first job on."""
        if self._catches_signals:
            return
        self._catches_signals = True
        atexit.register(self._close)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.default_int_handler)

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """End all jobs of the pool, since `active_jobs` may be empty after an interrupt."""
        self._close()

    def shutdown(self) -> None:
        self._close()
        with self._report_errors():
            super().shutdown()

    def _close(self) -> None:
        """End all jobs and machines, once. Signals are ignored meanwhile, so that none is left."""
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
        """End all machines, whatever error jobs or the ledger raise."""
        left = ["?"]
        with self._report_errors():
            pool.close()
        with self._report_errors():
            left = self.keeper.end_all(self.limits.end)
        if left:
            self._log(
                f"STILL LISTED, and billed: {' '.join(left)} ({self.keeper.failed}). Call "
                "`snakemake-vast reap` until none is left. Each machine also ends itself when it "
                "gets no sign of life from this computer."
            )
        with self._report_errors():
            if not left:
                self.renter.settle()
            self._log_costs()
        for text in next_steps(self.keeper.stopped.values()):
            self._log(text)
        self.keys.forget()
        if self.run_ is not None:
            self.run_.over([*left, *self.keeper.stopped])

    @contextmanager
    def _report_errors(self) -> Iterator[None]:
        """Log an error of the block instead of raising it."""
        try:
            yield
        except Exception as error:
            self._log(f"{type(error).__name__}: {error}")

    def _log_costs(self) -> None:
        lines = books.read(self.ledger.path)
        mine = [line for line in lines if line["run"] == self.ledger.run]
        scale, wall = self.clock.scale, self.clock.wall()
        self._log(f"this run: {books.summary(mine, wall, scale)}")
        self._log(f"all runs in {self.ledger.path.name}: {books.summary(lines, wall, scale)}")
