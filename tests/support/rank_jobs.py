"""Functions that ranks run in tests of their processes. They need no model, so they start fast."""

import fcntl
import signal
from pathlib import Path

from torch import distributed


def fail_alone():
    """Fail in rank 1; the other ranks wait forever."""
    if distributed.get_rank() == 1:
        raise ZeroDivisionError("one divided by rank 0")
    signal.pause()


def hold(folder):
    """Lock a file of this rank until its process ends."""
    lock = open(Path(folder) / str(distributed.get_rank()), "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    distributed.barrier()
    if distributed.get_rank() == 0:
        print("held", flush=True)
    signal.pause()
