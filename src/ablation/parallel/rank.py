"""What a rank runs: python -m ablation.parallel.rank FOLDER, started by `ablation.parallel.launch`.

A rank is a session of its own, which torchrun leaves alive if it is itself killed. So a rank ends
when the process that started it has ended.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from ablation.parallel.launch import ANSWER, JOB, OUT_OF_MEMORY, Meeting

PATIENCE = timedelta(hours=2)  # with a slow rank; a dead one is noticed at once


def _end_with_parent(parent: int) -> None:
    """Wait until the process `parent` has ended, then kill this rank and its processes."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _work(folder: str) -> None:
    """Run the job in `folder` as the rank in this process's environment variables."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    os.dup2(2, 1)  # results of the job itself may be on its stdout
    meeting, rank = Meeting.read(folder), int(os.environ["RANK"])
    if meeting.gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if meeting.gpu else "gloo",
        store=distributed.PrefixStore("ranks", meeting.store()),
        rank=rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=PATIENCE,
    )
    function, arguments = pickle.loads(Path(folder, JOB).read_bytes())
    answer = function(*arguments)
    if rank == 0:
        Path(folder, ANSWER).write_bytes(pickle.dumps(answer))
    distributed.barrier()


def _main(folder: str) -> int:
    try:
        _work(folder)
    except torch.OutOfMemoryError:
        return OUT_OF_MEMORY
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = _main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without clean-up: a failed rank would wait for the others forever
