"""Snakemake logger `live`: what runs, how far it is, what is left. Plain lines without a terminal.

    snakemake --logger live ...

On a terminal the jobs' own lines are read instead of shown: their steps and losses stand in the
table, anything else they print stays above it. Who must ask something borrows the terminal from it
(`ablation.terminal`).
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from ablation import terminal

from .state import PROGRESS, Run
from .view import last_line, line_of, spent, table

__all__ = ["LogHandler"]

# told by the view itself, or of no use beside it
SILENT = {LogEvent.JOB_STARTED, LogEvent.PROGRESS, LogEvent.SHELLCMD, LogEvent.DEBUG_DAG}
SILENT |= {LogEvent.RESOURCES_INFO, LogEvent.RULEGRAPH, LogEvent.WORKFLOW_STARTED}
CHATTER = ("Select jobs to execute", "Execute ", "Building DAG of jobs", "Using shell:")


class LogHandler(LogHandlerBase):
    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.run, self.live, self.captured = Run(), None, None
        self.paid_before = spent(Path())
        stream = sys.stdout if self.common_settings.stdout else sys.stderr
        if stream.isatty() and not self.common_settings.dryrun:
            self._take_over(stream)
        else:
            self.console = Console(file=stream, width=10_000, highlight=False)
        atexit.register(self.close)

    def emit(self, record) -> None:
        """Called in one thread. A view must not stop a study: faults go to Python's own handler."""
        try:
            self._tell(record)
        except Exception:
            self.handleError(record)

    def _tell(self, record) -> None:
        event, now = getattr(record, "event", None), time.time()
        if event == LogEvent.RUN_INFO:
            self.run.planned(record.stats)
        elif event == LogEvent.JOB_INFO:
            job = self.run.started(
                record.jobid, record.rule_name, record.rule_msg, list(record.log or ()), now
            )
            planned = self.common_settings.dryrun
            self._line(f"{'would run' if planned else 'start '} {job.name}", plain_only=True)
        elif event == LogEvent.JOB_FINISHED:
            if job := self.run.finished(record.job_id, now):
                self._line(line_of(self.run, job, now, self._dollars()))
        elif event in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR):
            self.run.failed(getattr(record, "jobid", None))
            self._print(self.format(record))
        elif event not in SILENT and record.levelno >= logging.INFO:
            text = self.format(record)
            if not text.startswith(CHATTER):
                self._print(text)

    def _dollars(self) -> float:
        return spent(Path()) - self.paid_before

    def _line(self, text: str, plain_only: bool = False) -> None:
        if not (plain_only and self.live):
            self._print(f"{time.strftime('%H:%M:%S')} {text}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    # ---- a terminal -----------------------------------------------------------------------------

    def _take_over(self, stream) -> None:
        """Keep the terminal for the view; what this process and its jobs write comes by a pipe."""
        stream.flush()
        self.captured = stream.fileno()
        self.terminal = os.dup(self.captured)
        self.console = Console(file=os.fdopen(self.terminal, "w"), highlight=False)
        reads, self.pipe = os.pipe()
        os.dup2(self.pipe, self.captured)
        self.reader = threading.Thread(target=self._pass_on, args=(reads,), daemon=True)
        self.reader.start()
        self.live = Live(
            get_renderable=self._view,
            console=self.console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.live.start()
        terminal.lent_by(self._lend)

    @contextmanager
    def _lend(self) -> Iterator[None]:
        """Give the terminal away for a question. Jobs write on into the pipe."""
        self.live.stop()
        os.dup2(self.terminal, self.captured)
        try:
            yield
        finally:
            os.dup2(self.pipe, self.captured)
            self.live.start()

    def _view(self) -> Group:
        return table(self.run, time.time(), self._dollars(), last_line, self.console.width)

    def _pass_on(self, reads: int) -> None:
        with open(reads, errors="replace") as lines:
            for line in lines:
                if not PROGRESS.match(line):
                    self._print(line.rstrip("\n"))

    def close(self) -> None:
        """Give the terminal back; twice does no harm."""
        live, self.live = self.live, None
        if live:
            terminal.lent_by(None)
            live.stop()
            os.dup2(self.terminal, self.captured)
            os.close(self.pipe)  # its last writer here: its reader ends
            self.reader.join(timeout=2)
            self.console.file.flush()
        super().close()
