"""What ranks do in tests of their processes: it needs no model, so that they start soon."""

import fcntl
import signal
from pathlib import Path

from torch import distributed


def fail_alone():
    """Rank 1 fails; the others would wait for ever."""
    if distributed.get_rank() == 1:
        raise ZeroDivisionError("one divided by rank 0")
    signal.pause()


def hold(folder):
    """Hold a file of this rank's until the end of its process."""
    lock = open(Path(folder) / str(distributed.get_rank()), "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    distributed.barrier()
    if distributed.get_rank() == 0:
        print("held", flush=True)
    signal.pause()
