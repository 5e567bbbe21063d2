"""Endings that are no fault of the code, as a message of three lines in place of a traceback."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

KEPT = "Finished results are kept; this job begins again."
AGAIN = "The same command goes on."
FULL = (errno.ENOSPC, errno.EDQUOT)
# What safetensors and torch say instead of raising an OSError.
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed")
# What torch.save to a file says, whose end is not where it should be.
TORN = re.compile(r"basic_ios::clear: iostream error|unexpected pos \d+ vs \d+")

# Signals that stop a job, with what its message says.
STOPS = {
    signal.SIGINT: "stopped by Ctrl-C",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "stopped, because its terminal was lost (SIGHUP)",
}
# Environment variable with the process number of a Snakemake that reports stops for its jobs.
RUN = "ABLATION_RUN"
REPORTED = 75  # exit status of a job that has said itself why it ended
STOPPED = 76  # exit status of a job that a signal has stopped; its log alone says so


class Stopped(KeyboardInterrupt):
    """A signal of `STOPS` has reached this job."""


class Ended(SystemExit):
    """The job ends with a message. stopped: whether a signal has stopped it."""

    def __init__(self, message: str, stopped: bool) -> None:
        super().__init__(message)
        self.stopped = stopped


# ---- the message ---------------------------------------------------------------------------------


@contextmanager
def told_in_three_lines(rule: str) -> Iterator[None]:
    """Raise Ended with what happened to the job of `rule`, what is kept and what goes on.

    This holds for the signals of `STOPS`, a full disk and too little memory; other errors pass.
    Notes on the error (`BaseException.add_note`) say what is kept.
    """
    try:
        with _stoppable():
            yield
    except BaseException as error:
        _let_gpu_finish()
        if (found := _ending(error)) is None:
            raise
        what, next_action = found
        kept = " ".join(getattr(error, "__notes__", ())) or KEPT
        message = f"{rule}: {what}\n{kept}\n{next_action}{AGAIN}"
        raise Ended(message, isinstance(error, KeyboardInterrupt)) from None


def _let_gpu_finish() -> None:
    """Wait until the GPU has done what this job gave it.

    NVIDIA warns that an end before that, under MPS, may spoil the work of the card's other jobs.
    """
    torch = sys.modules.get("torch")  # is slow to import
    if torch is not None and torch.cuda.is_initialized():
        with suppress(RuntimeError):  # of a card that has failed
            torch.cuda.synchronize()


def _ending(error: BaseException) -> tuple[str, str] | None:
    """What happened, and what to do before the next run; None for an error of another kind."""
    if isinstance(error, KeyboardInterrupt):
        return f"{error if isinstance(error, Stopped) else STOPS[signal.SIGINT]}.", ""
    first = str(error).partition("\n")[0]
    torn = isinstance(error, RuntimeError) and TORN.search(first)
    if torn or getattr(error, "errno", None) in FULL or any(t in first for t in FULL_TEXTS):
        return f"the disk is full ({first}).", "Make room on it first (df -h .). "
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is slow to import
        return (
            f"the GPU has too little memory ({first}).",
            "End other programs on it (nvidia-smi), or lower micro_batch_examples or max_seq_len. ",
        )
    if isinstance(error, MemoryError):
        return "this machine has too little memory.", "Give Snakemake fewer --cores. "
    return None


@contextmanager
def reported_once() -> Iterator[None]:
    """End with the status `REPORTED`, where Snakemake says nothing more of the job; or `STOPPED`.

    Snakemake itself reports a stop, of the run or of this job, so its message is in the log alone.
    """
    try:
        yield
    except Ended as ended:
        if RUN not in os.environ:
            raise
        if ended.stopped:
            raise SystemExit(STOPPED) from None
        print(ended.code, file=sys.stderr)
        raise SystemExit(REPORTED) from None


# ---- signals -------------------------------------------------------------------------------------


@contextmanager
def _stoppable() -> Iterator[None]:
    """Raise Stopped in this block at the first signal of `STOPS`, and ignore further ones.

    They are ignored after the block too, so that the message of the stop can be written. The end
    of the Snakemake that `RUN` names counts as a signal. A signal that is ignored already stays so,
    such as SIGHUP below nohup. So does SIGINT in a job of a run: its shell ignores it, because a
    terminal sends Ctrl-C to jobs of a run in the background too, whose Snakemake goes on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    lost, left = threading.Event(), threading.Event()
    raised: list[weakref.ref[Stopped]] = []

    def new(number: int) -> Stopped:
        reason = "stopped, because its Snakemake has ended"
        error = Stopped(reason if lost.is_set() else STOPS[signal.Signals(number)])
        raised.append(weakref.ref(error))
        return error

    def stop(number: int, _: object) -> None:
        if left.is_set() or (raised and raised[-1]() is not None):
            return
        if not raised:
            threading.Thread(target=_repeat, args=(number, raised, left), daemon=True).start()
        raise new(number)  # without a name, which would keep the error alive in this frame

    wanted = [n for n in STOPS if signal.getsignal(n) != signal.SIG_IGN]
    before = {n: signal.signal(n, stop) for n in wanted}
    if run := os.environ.get(RUN):
        threading.Thread(target=_stop_after, args=(int(run), lost), daemon=True).start()
    try:
        yield
    finally:
        left.set()
        for number, handler in before.items() if not raised else ():
            signal.signal(number, handler)


def _repeat(number: int, raised: list[weakref.ref[Stopped]], left: threading.Event) -> None:
    """Send the signal `number` again whenever the error that it raised is lost.

    Python drops an error that is raised in the callback of a weak reference or in `__del__`, and
    torch drops some in its guards. Then nothing refers to it, and the job would go on.
    """
    while not left.wait(0.2):
        if raised[-1]() is None:
            os.kill(os.getpid(), number)


def _stop_after(run: int, lost: threading.Event) -> None:
    """Wait for the end of the process `run`, then stop this one. Needs Linux."""
    if not hasattr(os, "pidfd_open"):
        return
    try:
        descriptor = os.pidfd_open(run)
    except OSError as error:
        if error.errno != errno.ESRCH:  # a system without this call
            return
    else:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    lost.set()
    os.kill(os.getpid(), signal.SIGTERM)
