"""Runs one function in several processes, its ranks, on this machine and on others.

The library of torchrun starts the ranks of a machine, lets machines find each other (a rendezvous),
and ends all ranks of a machine if one fails. Here is what it lacks: ranks end with the process that
started them (`ablation.parallel.rank`), a machine that fails or falls silent ends the ranks of all
machines (`ablation.parallel.watch`), and a failure has one message.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ablation.parallel.watch import Watch

HOST = "127.0.0.1"
OUT_OF_MEMORY = 75  # the exit code of a rank that ran out of memory
JOIN_MINUTES = 10  # within which all machines must have come
REPORTS_SECONDS = 10.0  # within which other machines say which of their ranks failed
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
LOGGERS = (
    "torchelastic-events-null",
    *(f"torch.distributed.elastic.{part}.api" for part in ("multiprocessing", "agent.server")),
    "torch.distributed.launcher.api",
)
MEETING, JOB, ANSWER = "meeting.json", "job", "answer"  # files of the folder that ranks share


class RankFailed(RuntimeError):
    """A rank ended without having finished its work. Its traceback is in the log."""


@dataclass(frozen=True)
class Meeting:
    """How the machines of a run find each other.

    address, port: of the store, which the process that called `run` holds.
    ranks: the number on each machine. gpu: whether each rank has a GPU of its own.
    """

    address: str
    port: int
    name: str
    nodes: int
    ranks: int
    gpu: bool

    @classmethod
    def read(cls, folder: str | Path) -> Meeting:
        """The meeting in a folder that `run` has made."""
        return cls(**json.loads(Path(folder, MEETING).read_text("utf-8")))

    def store(self, seconds: float = 300) -> distributed.TCPStore:
        """A connection to the store. Raises DistError if there is none within so many seconds."""
        wait = timedelta(seconds=seconds)
        return distributed.TCPStore(self.address, self.port, is_master=False, timeout=wait)


def run(
    function: Callable,
    *arguments: Any,
    ranks: int,
    gpu: bool,
    nodes: int = 1,
    folder: str | Path | None = None,
) -> Any:
    """Run `function(*arguments)` in `ranks` processes and return the result of rank 0.

    `function` and `arguments` are pickled, functions by their names. With `gpu` each rank uses its
    own GPU (`nccl`), otherwise all ranks share CPUs (`gloo`). The output of ranks goes to this
    process's stderr.

    nodes: the number of machines, this one included, each with as many ranks. In an allocation of
        SLURM `srun` starts those of the others; elsewhere a message says what to run there.
    folder: one that all machines see, for several of them.

    No rank is left when this function returns, nor when this process is killed. Raises
    torch.OutOfMemoryError if a rank ran out of memory, and RankFailed if one ended for another
    reason or not all machines came. Must be called from the main thread.
    """
    address = HOST if nodes == 1 else os.environ.get("MASTER_ADDR") or socket.gethostname()
    store = distributed.TCPStore(address, 0, is_master=True, wait_for_workers=False)
    meeting = Meeting(address, store.port, uuid.uuid4().hex, nodes, ranks // nodes, gpu)
    place = folder if nodes > 1 else None
    with tempfile.TemporaryDirectory(prefix="ranks-", dir=place) as shared:
        Path(shared, JOB).write_bytes(pickle.dumps((function, arguments)))
        Path(shared, MEETING).write_text(json.dumps(asdict(meeting)), "utf-8")
        with _others(meeting, shared):
            silent = 0
            try:
                failed = run_ranks(meeting, shared, store)
                if failed and nodes > 1:
                    report(store, failed)  # which ends the ranks of the others
                    failed, silent = _reports(store, nodes, REPORTS_SECONDS)
            except RankFailed:  # ended by the watch; another machine may have said why
                failed, _ = _reports(store, nodes, 0)
                if not failed:
                    raise
        if OUT_OF_MEMORY in failed.values():
            raise torch.OutOfMemoryError("a rank has too little memory")
        if failed:
            lost = f"; {silent} other machine(s) no longer answered" if silent else ""
            raise RankFailed(f"of {ranks} ranks {_causes(failed)}{lost}; its output is above")
        return pickle.loads(Path(shared, ANSWER).read_bytes())


def run_ranks(meeting: Meeting, folder: str, store: distributed.TCPStore) -> dict[int, int]:
    """Start the ranks of this machine and wait for their end.

    Returns {rank: exit code} of those that failed. Raises RankFailed if they had to be ended.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ranks-") as logs,
        _rank_environment(),
        _signals_as_exceptions() as signals,
    ):
        watch = Watch(store, meeting.nodes)
        config = LaunchConfig(
            min_nodes=meeting.nodes,
            max_nodes=meeting.nodes,
            nproc_per_node=meeting.ranks,
            run_id=meeting.name,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{meeting.address}:{meeting.port}",
            rdzv_configs={"is_host": False, "join_timeout": 60 * JOIN_MINUTES},
            max_restarts=0,
            monitor_interval=0.05,
            logs_specs=DefaultLogsSpecs(log_dir=logs, tee=Std.ALL),
            log_line_prefix_template="rank ${rank}: ",
            local_addr=HOST if meeting.nodes == 1 else None,
            signals_to_handle=",".join(each.name for each in signals),
            shutdown_timeout=1,  # checkpoints are safe from a kill at any moment
        )
        try:
            with watch:
                elastic_launch(config, sys.executable)("-m", "ablation.parallel.rank", folder)
        except ChildFailedError as error:
            for failure in error.failures.values():
                with suppress(ProcessLookupError):  # compilers of a rank that was killed
                    os.killpg(failure.pid, signal.SIGKILL)
            return {rank: failure.exitcode for rank, failure in error.failures.items()}
        except SignalException as ended:
            if watch.why:
                raise RankFailed(watch.why) from None
            stopped = ended.sigval
        except (RendezvousError, distributed.DistError) as error:
            raise RankFailed(
                f"{meeting.nodes} machines could not connect at {meeting.address} "
                f"({type(error).__name__}): not all of them joined within {JOIN_MINUTES} minutes, "
                "or the job on the first machine has ended"
            ) from None
        else:
            return {}
    os.kill(os.getpid(), stopped)  # to the handler that was there before
    raise RankFailed(f"{stopped.name} has ended the ranks")


@contextmanager
def _rank_environment() -> Iterator[None]:
    """What ranks need in the environment, which torchrun hands on."""
    before = dict(os.environ)
    os.environ |= _import_paths()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # otherwise accelerate sets torch's threads
    # Its messages about a failure say again what RankFailed says.
    loggers = [logging.getLogger(name) for name in LOGGERS]
    were = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, were, strict=True):
            logger.disabled = disabled
        os.environ.clear()
        os.environ.update(before)


def _import_paths() -> dict[str, str]:
    """Environment variables with which a process imports from where this one does.

    `python -m` would look in the folder of the study first, where a file may have any name.
    """
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}


@contextmanager
def _signals_as_exceptions() -> Iterator[list[signal.Signals]]:
    """Let signals that end this process end its ranks first, and restore the handlers after it.

    Yields these signals: SIGNALS without those that are ignored, as under nohup. torchrun does so
    only once the ranks are started, and leaves its handlers in place.
    """

    def end(number: int, frame: Any) -> None:
        raise SignalException("", signal.Signals(number))

    wanted = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in wanted}
    try:
        yield wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- several machines ----------------------------------------------------------------------------


@contextmanager
def _others(meeting: Meeting, folder: str) -> Iterator[None]:
    """Start the ranks of the other machines by `srun`, or say what starts them."""
    if meeting.nodes == 1:
        yield
        return
    join = [sys.executable, "-m", "ablation.parallel.join", str(Path(folder).resolve())]
    if "SLURM_JOB_ID" not in os.environ:
        others = meeting.nodes - 1
        print(
            f"waiting {JOIN_MINUTES} minutes for {others} more machine(s) with {meeting.ranks} "
            f"rank(s) each. On each of them, in this folder:\n    {' '.join(join)}",
            file=sys.stderr,
            flush=True,
        )
        yield
        return
    started = subprocess.Popen(srun(meeting) + join, env=os.environ | _import_paths())
    try:
        yield
    finally:
        with suppress(subprocess.TimeoutExpired):
            started.wait(REPORTS_SECONDS)  # its ranks have ended, or their watch ends them
        started.terminate()
        started.wait()


def srun(meeting: Meeting) -> list[str]:
    """The command that runs another one on all machines of an allocation but the first."""
    others = meeting.nodes - 1
    command = ["srun", f"--nodes={others}", f"--ntasks={others}", "--ntasks-per-node=1"]
    command += ["--relative=1", "--kill-on-bad-exit=0"]
    return command + ([f"--gpus-per-node={meeting.ranks}"] if meeting.gpu else [])


def report(store: distributed.TCPStore, failed: Mapping[int, int]) -> None:
    """Tell all machines which ranks of this one have failed."""
    store.set(f"report/{store.add('reporting', 1)}", json.dumps(failed))
    store.add("reports", 1)  # seen by every machine's Watch


def _reports(
    store: distributed.TCPStore, machines: int, seconds: float
) -> tuple[dict[int, int], int]:
    """{rank: exit code} of those that failed, and how many machines have not reported.

    Waits at most so many seconds for the reports of so many machines.
    """
    end = time.monotonic() + seconds
    while (count := store.add("reports", 0)) < machines and time.monotonic() < end:
        time.sleep(0.1)
    found = [json.loads(store.get(f"report/{number + 1}")) for number in range(count)]
    failed = {int(rank): code for ranks in found for rank, code in ranks.items()}
    return failed, machines - count


def _causes(failed: Mapping[int, int]) -> str:
    """Which ranks failed first, as far as that is known, and how.

    SIGTERM is how torchrun ends the others of a machine. A rank that was killed otherwise is the
    cause of errors in those that were connected with it.
    """
    alone = {rank: code for rank, code in failed.items() if code != -signal.SIGTERM} or failed
    killed = {rank: code for rank, code in alone.items() if code < 0} or alone
    return ", ".join(f"rank {rank} {_ending(code)}" for rank, code in sorted(killed.items()))


def _ending(code: int) -> str:
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
