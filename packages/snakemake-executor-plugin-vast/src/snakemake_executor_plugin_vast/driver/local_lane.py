"""Runs the jobs that need no GPU on this computer, within its number of processors."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

from .task import Outcome, Task


class LocalLane:
    """`submit` returns at once; the task's `outcome` is None while the job waits or runs."""

    def __init__(self, processors: int, logs: Path) -> None:
        self.free, self.logs = processors, logs
        self.processors = processors
        self._turn, self._closed, self._number = threading.Condition(), False, 0
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def submit(self, task: Task, threads: int) -> None:
        self._number += 1
        arguments = (task, min(max(1, threads), self.processors), self._number)
        threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def close(self) -> None:
        """End all jobs."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)

    def _run(self, task: Task, threads: int, number: int) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._closed or self.free >= threads)
            if self._closed:
                return
            self.free -= threads
        log = self.logs / f"local-{number}.log"
        try:
            task.outcome = self._process(task, number, log)
        except OSError as error:
            task.outcome = Outcome(str(error))
        finally:
            with self._turn:
                self.free += threads
                self._turn.notify_all()

    def _process(self, task: Task, number: int, log: Path) -> Outcome:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", task.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(os.environ) | task.environment,
                start_new_session=True,
            )
        with self._turn:
            self._running[number] = process
        code = process.wait()
        with self._turn:
            del self._running[number]
        if code:
            return Outcome(f"exit code {code}", log.read_text("utf-8", "replace")[-8000:], str(log))
        return Outcome(log=str(log))
