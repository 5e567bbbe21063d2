"""The dead-man switch, which each machine starts by itself. It needs nothing but Python.

While the driver lives, it touches the file `lease` every minute. When it stops doing so, jobs get
SIGTERM and some time to save their state. Then the machine stops itself, so that only its disk is
billed, or destroys itself if it has neither a state nor results of a job, if it was stopped for a
long time before, or if it has lived too long. `machine_control` is the market's module, installed
beside this file. Only a change of the lease counts, not its time, since clocks may be wrong.
"""

import contextlib
import glob
import os
import signal
import sys
import time


def decide(
    quiet: float,
    age: float,
    silent: float,
    longest: float,
    keep: bool,
    stopped_for: float | None,
    later: float,
) -> str | None:
    """None, "stop" or "destroy". All times in seconds; `stopped_for` is None if never stopped."""
    if age > longest:
        return "destroy"
    if quiet <= silent:
        return None
    if not keep or (stopped_for is not None and stopped_for > later):
        return "destroy"
    return "stop"


def since_when(path: str, note: bool = False) -> float | None:
    """Seconds since an empty file was made, by this machine's clock; None: it is not there.

    The file is empty because a full disk has no room for text.
    """
    with contextlib.suppress(OSError):
        if note:
            open(path, "ab").close()
        return time.time() - os.stat(path).st_mtime
    return None


def touched(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def worth_keeping(folder: str) -> bool:
    """Whether any job has a state, or has ended and the driver has not got its results."""
    for note in glob.glob(os.path.join(folder, "*", "keep")):
        with contextlib.suppress(OSError):
            if any(map(glob.glob, (f"{glob.escape(state)}/*" for state in read(note).split("\n")))):
                return True
    return bool(glob.glob(os.path.join(folder, "*", "exit.json")))


def main(
    folder: str, silent: float, grace: float, later: float, longest: float, tick: float
) -> None:
    """`folder` holds lease, born and stopped, and for each job pid and keep (its state folders)."""
    import machine_control  # type: ignore[import-not-found]

    born, stopped = os.path.join(folder, "born"), os.path.join(folder, "stopped")
    lease = os.path.join(folder, "lease")
    since_when(born, note=True)
    seen, since = touched(lease), time.monotonic()
    while True:
        time.sleep(tick)
        if touched(lease) != seen:
            seen, since = touched(lease), time.monotonic()
            if os.path.exists(stopped):
                os.remove(stopped)
        age, stopped_for = since_when(born) or 0, since_when(stopped)
        facts = (time.monotonic() - since, age, silent, longest)
        if decide(*facts, True, stopped_for, later) is None:
            continue
        for pid in glob.glob(os.path.join(folder, "*", "pid")):
            with contextlib.suppress(OSError, ValueError):
                os.killpg(int(read(pid)), signal.SIGTERM)
        time.sleep(grace)
        try:
            if decide(*facts, worth_keeping(folder), stopped_for, later) == "stop":
                since_when(stopped, note=True)
                machine_control.stop()
            else:
                machine_control.destroy()
        except Exception:  # no network now: again at the next tick
            continue


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
