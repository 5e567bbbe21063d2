"""The dead-man switch, run on each machine by its own start script; it needs nothing but Python.

When the driver stops touching the lease, jobs get SIGTERM and a while to save what they have; then
the machine stops itself (only its disk is billed on), or destroys itself when it has nothing worth
keeping, was found silent before, or has lived too long. It uses the container's own key, which can
do nothing else. Only changes of the lease count, never its time: clocks may be wrong.
"""

import contextlib
import glob
import os
import signal
import sys
import time
import urllib.request


def decide(quiet, age, silent, longest, keep, stopped_for, later):
    """What to do now: None, "stop" or "destroy". All in seconds; `stopped_for` None: never was."""
    if age > longest:
        return "destroy"
    if quiet <= silent:
        return None
    if not keep or (stopped_for is not None and stopped_for > later):
        return "destroy"
    return "stop"


def call(url, method, body):
    request = urllib.request.Request(
        url.rstrip("/") + f"/api/v0/instances/{os.environ['CONTAINER_ID']}/", body, method=method
    )
    request.add_header("Authorization", "Bearer " + os.environ["CONTAINER_API_KEY"])
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request, timeout=30).read()


def since_when(path, note=False):
    """Seconds since an empty file was made, by this machine's own clock; None: never.

    Empty: a full disk has no room for a text.
    """
    with contextlib.suppress(OSError):
        if note:
            open(path, "a").close()
        return time.time() - os.stat(path).st_mtime
    return None


def touched(path):
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def read(path):
    with open(path) as file:
        return file.read()


def worth_keeping(folder):
    """Is there a state of any job? Those that are done have removed theirs."""
    for note in glob.glob(os.path.join(folder, "*", "keep")):
        with contextlib.suppress(OSError):
            if any(map(glob.glob, (f"{glob.escape(state)}/*" for state in read(note).split("\n")))):
                return True
    return False


def main(folder, url, silent, grace, later, longest, tick):
    """`folder` holds `lease`, `born`, `stopped`; and jobs: */pid, */keep that names its states."""
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
                call(url, "PUT", b'{"state": "stopped"}')
            else:
                call(url, "DELETE", b"{}")
        except Exception:  # no network now, or half an answer: again at the next tick
            continue


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
