"""The log handler that Snakemake creates for `--logger live`."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from .costs import Costs, installed_sources
from .former import read_former, write_former
from .printable import printable
from .progress import last_progress
from .run import Run
from .screen import Screen
from .view import finished_line, table

# Events that the display itself shows, or that add nothing to it.
SILENT = {
    LogEvent.JOB_STARTED,
    LogEvent.RESOURCES_INFO,
    LogEvent.RULEGRAPH,
    LogEvent.WORKFLOW_STARTED,
}
SILENT_MESSAGES = ("Select jobs to execute", "Execute ", "Building DAG of jobs", "Using shell:")


class LogHandler(LogHandlerBase):
    """Shows a live table on a terminal; prints plain lines for dry runs and without a terminal."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True  # Snakemake's own filter would drop the events that the table is made from
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        settings = self.common_settings
        self.run = Run()
        self.costs = Costs(())
        self.quiet = {str(getattr(what, "name", what)).lower() for what in settings.quiet or ()}
        if settings.dryrun:  # as Snakemake does: what a dry run finds is always shown
            self.quiet.discard("all")
        stream = sys.stdout if settings.stdout else sys.stderr
        self.screen: Screen | None = None
        self.console = Console(file=stream, width=10_000, highlight=False)
        on_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        if on_terminal and not settings.dryrun and "all" not in self.quiet:
            self.screen = Screen(stream, self._draw, settings.nocolor)
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record. An error in here never stops the workflow."""
        try:
            self._show(record, record.__dict__, time.time())
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Give the terminal back, and keep how long jobs took; a second call does nothing."""
        if self.run.seconds:
            write_former(self.run.seconds_a_job())
            self.run.seconds = {}
        if self.screen:
            self.screen.close()
        super().close()

    def _show(self, record: logging.LogRecord, facts: Mapping[str, Any], now: float) -> None:
        match facts.get("event"):
            case LogEvent.RUN_INFO:
                # Snakemake has changed to the workflow's folder by now, where costs are looked for.
                self.costs = Costs(installed_sources())
                self.run.former = read_former()
                self.run.plan(facts["stats"])
            case LogEvent.PROGRESS:
                self.run.extend(facts["total"])
            case LogEvent.JOB_INFO:
                name = _job_name(facts)
                self.run.start(facts["jobid"], facts["rule_name"], name, facts["log"] or (), now)
                if not self.screen:
                    what = "would run" if self.common_settings.dryrun else "start "
                    self._print_timed(f"{what} {name}", "rules")
            case LogEvent.JOB_FINISHED:
                if job := self.run.finish(facts["job_id"], now):
                    line = finished_line(self.run, job, now, self.costs.dollars())
                    self._print_timed(line, "progress")
            case LogEvent.JOB_ERROR:
                self.run.fail(facts["jobid"])
                self._print(self.format(record))
            case LogEvent.GROUP_ERROR:
                for job_error in facts["job_error_info"]:
                    self.run.fail(job_error["jobid"])
                self._print(self.format(record))
            case event if self._is_wanted(event, record.levelno):
                text = self.format(record)
                if not text.startswith(SILENT_MESSAGES):
                    self._print(text)

    def _is_wanted(self, event: LogEvent | None, level: int) -> bool:
        """Whether a message that no part of the display replaces is printed."""
        if event in SILENT or ("all" in self.quiet and level < logging.ERROR):
            return False
        if event == LogEvent.SHELLCMD:
            return self.common_settings.printshellcmds
        if event == LogEvent.DEBUG_DAG:
            return self.common_settings.debug_dag
        return level >= logging.INFO or self.common_settings.verbose

    def _print_timed(self, text: str, kind: str) -> None:
        """Print a line with the time of day, unless `--quiet` names its kind or `all`."""
        if not self.quiet & {kind, "all"}:
            self._print(f"{time.strftime('%H:%M:%S')} {text}")

    def _print(self, text: str) -> None:
        if self.screen:
            self.screen.print(text)
        else:
            self.console.print(printable(text), markup=False, emoji=False, soft_wrap=True)

    def _draw(self, width: int) -> RenderableType:
        """The display, drawn by a thread of its own while `emit` changes the run in another."""
        run, dollars = self.run.copy(), self.costs.dollars()
        return table(run, time.time(), dollars, lambda job: last_progress(job.logs), width)


def _job_name(facts: Mapping[str, Any]) -> str:
    """The rule's message, or the rule with its wildcards: `align sample=A`."""
    if message := facts["rule_msg"]:
        return printable(str(message))
    wildcards = dict(facts.get("wildcards") or {})
    parts = [facts["rule_name"], *(f"{name}={value}" for name, value in wildcards.items())]
    return printable(" ".join(parts))
