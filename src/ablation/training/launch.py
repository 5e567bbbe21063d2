"""Runs one function in several processes, its ranks, which torch.distributed connects.

If one rank fails, the others are killed. The parent holds a pipe open to each rank; when the parent
ends, however it ends, the pipes close and the ranks end themselves.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

HOST = "127.0.0.1"
OUT_OF_MEMORY = 75  # the exit code of a rank that ran out of memory
PATIENCE = timedelta(hours=2)  # with a slow rank; a dead one is noticed at once


class RankFailed(RuntimeError):
    """A rank ended without having finished its work. Its traceback is in the log."""


def run(function: Callable, *arguments: Any, ranks: int, gpu: bool) -> Any:
    """Run `function(*arguments)` in `ranks` processes and return the result of rank 0.

    `function` and `arguments` are pickled, functions by their names. With `gpu` each rank uses its
    own GPU (`nccl`), otherwise all ranks share the CPU (`gloo`). The output of ranks goes to this
    process's stderr. No rank is left when this function returns. Raises torch.OutOfMemoryError if
    a rank ran out of memory, and RankFailed if one ended for another reason.
    """
    store = distributed.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "job").write_bytes(pickle.dumps((function, arguments)))
        processes, relays = [], []
        try:
            for rank in range(ranks):
                processes.append(_start(rank, ranks, folder, store.port, gpu))
                relays.append(threading.Thread(target=_relay, args=(rank, processes[-1])))
                relays[-1].start()
            failed = _first_failure(processes)
        finally:
            for process in processes:
                _end(process)
            for relay in relays:
                relay.join()
        if OUT_OF_MEMORY in failed.values():
            raise torch.OutOfMemoryError("a rank has too little memory")
        if failed:
            causes = ", ".join(f"rank {rank} {_cause(code)}" for rank, code in failed.items())
            raise RankFailed(f"of {ranks} ranks {causes}; its output is above")
        return pickle.loads(Path(folder, "answer").read_bytes())


def _start(rank: int, ranks: int, folder: str, port: int, gpu: bool) -> subprocess.Popen:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    environment = os.environ | {name: str(number) for name, number in numbers.items()}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    environment.setdefault("OMP_NUM_THREADS", "1")  # otherwise accelerate sets torch's threads
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ablation.training.launch",
            folder,
            str(port),
            "gpu" if gpu else "cpu",
        ],
        env=environment,
        stdin=subprocess.PIPE,  # nothing is written; it closes when this process ends
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that processes of a rank, such as compilers, end with it
        encoding="utf-8",
        errors="replace",
    )


def _relay(rank: int, process: subprocess.Popen[str]) -> None:
    """Copy the output of a rank to stderr."""
    assert process.stdout is not None
    for line in process.stdout:
        sys.stderr.write(line if rank == 0 else f"rank {rank}: {line}")


def _first_failure(processes: Sequence[subprocess.Popen]) -> dict[int, int]:
    """Wait until all ranks have succeeded or one has failed; {rank: exit code} of those failed.

    Raises RankFailed if the process that started this one ends, such as a Snakemake that is killed.
    """
    parent = os.getppid()
    while True:
        if os.getppid() != parent:
            raise RankFailed("Snakemake has ended without this training, so its ranks were ended")
        codes = [process.poll() for process in processes]
        failed = {rank: code for rank, code in enumerate(codes) if code}
        if failed or None not in codes:
            return failed
        time.sleep(0.05)


def _end(process: subprocess.Popen) -> None:
    """Kill a rank and its processes. Checkpoints are safe from a kill at any moment."""
    with suppress(ProcessLookupError):  # it has ended with all its processes
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _cause(code: int) -> str:
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


# ---- in a rank ---------------------------------------------------------------------------------


def _end_with_parent() -> None:
    """Wait until the parent closes the pipe, then kill this rank and its processes."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def _work(folder: str, port: str, device: str) -> None:
    """Run the job in `folder` as the rank in this process's environment variables."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if device == "gpu":
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "gpu" else "gloo",
        store=distributed.TCPStore(HOST, int(port), is_master=False),
        rank=rank,
        world_size=ranks,
        timeout=PATIENCE,
    )
    function, arguments = pickle.loads(Path(folder, "job").read_bytes())
    answer = function(*arguments)
    if rank == 0:
        Path(folder, "answer").write_bytes(pickle.dumps(answer))
    distributed.barrier()


def _main(arguments: Sequence[str]) -> int:
    try:
        _work(*arguments)
    except torch.OutOfMemoryError:
        return OUT_OF_MEMORY
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = _main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without clean-up: a failed rank would wait for the others forever
