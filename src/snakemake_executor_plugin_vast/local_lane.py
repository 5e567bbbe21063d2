"""Jobs that need no GPU run here, as many at a time as there are processors for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

from .transport import SECRET
from .work import Outcome


class LocalLane:
    """`submit` returns at once; `outcome(job)` is None while the job waits or runs."""

    def __init__(self, processors: int, logs: Path):
        self.free, self.logs = processors, logs
        self.most = processors
        self._turn, self._closed, self._number = threading.Condition(), False, 0
        self._running: dict[int, subprocess.Popen] = {}

    def submit(self, task, threads: int) -> None:
        self._number += 1
        arguments = (task, min(max(1, threads), self.most), self._number)
        threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._turn.notify_all()
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)

    def _run(self, task, threads: int, number: int) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._closed or self.free >= threads)
            if self._closed:
                return
            self.free -= threads
        log = self.logs / f"local-{number}.log"
        try:
            task.outcome = self._process(task, number, log)
        except OSError as fault:
            task.outcome = Outcome(str(fault))
        finally:
            with self._turn:
                self.free += threads
                self._turn.notify_all()

    def _process(self, task, number: int, log: Path) -> Outcome:
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if k not in SECRET} | task.environment
        with open(log, "wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", task.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        with self._turn:
            self._running[number] = process
        code = process.wait()
        with self._turn:
            del self._running[number]
        if code:
            return Outcome(f"exit code {code}", log.read_text(errors="replace")[-8000:], str(log))
        return Outcome(log=str(log))
