"""Runs ssh and rsync within bounds, since what a machine sends may be endless, or a trickle."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import threading
import time

ANSWER = 16 << 20  # bytes that a command may print
LEAST = 1 << 20  # bytes that a transfer moves at least before it counts as stalled
SLOWEST = 1e6  # bytes per second, with which the time for a whole transfer is computed
TICK, GRACE = 1.0, 5.0  # seconds: between two checks, and from SIGTERM to SIGKILL
MOVED = re.compile(rb"\r *(\d{1,20}) +\d+%")  # of rsync --info=progress2 --no-h
LINE = 100  # bytes of a line of rsync's progress, at most


class Excess(Exception):
    """A machine sent more than it may."""


class Progress:
    """Bounds of an rsync: at least LEAST bytes in every `stall` seconds, `longest` seconds in all.

    From a machine come `most` bytes at most. It reads what rsync here prints, which counts the
    bytes that are really moved.
    """

    def __init__(self, most: float, stall: float, longest: float) -> None:
        self.most, self.stall, self.longest = most, stall, longest
        self._text, self._mark, self._began = b"", 0, time.monotonic()
        self._since = self._began

    def read(self, block: bytes) -> None:
        """Read a part of rsync's standard output. Raises Excess."""
        text = self._text + block
        self._text = text[-LINE:]
        # The largest number counts: among others there may be text that the machine has sent.
        if (moved := max(map(int, MOVED.findall(text)), default=0)) > self.most:
            raise Excess(f"it sent {moved / 1e9:.3g} GB, {self.most / 1e9:.3g} GB are allowed")
        if moved - self._mark >= LEAST:
            self._mark, self._since = moved, time.monotonic()

    def check(self) -> None:
        """Raise TimeoutError after a stall, and when the transfer took too long."""
        now = time.monotonic()
        if now - self._since > self.stall:
            raise TimeoutError(f"the transfer moved less than 1 MiB in {self.stall:.0f} s")
        if now - self._began > self.longest:
            raise TimeoutError(f"the transfer took more than {self.longest:.0f} s")


def run(
    command: list[str], data: bytes, timeout: float | None = None, progress: Progress | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program with `data` as its input. With `progress` its output is read, and not kept.

    Raises Excess or TimeoutError; the program and its children are ended then.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C must reach the driver only
    )
    assert process.stdin and process.stdout and process.stderr
    threading.Thread(target=_feed, args=(process, data), daemon=True).start()
    output, errors = bytearray(), bytearray()
    until = time.monotonic() + timeout if timeout else None
    with process.stdout, process.stderr, selectors.DefaultSelector() as streams:
        streams.register(process.stdout, selectors.EVENT_READ, output)
        streams.register(process.stderr, selectors.EVENT_READ, errors)
        try:
            while streams.get_map():
                for key, _ in streams.select(TICK):
                    block = os.read(key.fd, 1 << 16)
                    if not block:
                        streams.unregister(key.fileobj)
                    elif progress and key.data is output:
                        progress.read(block)
                    else:
                        key.data.extend(block)
                    if len(key.data) > ANSWER:
                        raise Excess(f"it answered more than {ANSWER >> 20} MiB")
                if until and time.monotonic() > until:
                    raise TimeoutError(f"no answer within {timeout:.0f} s")
                if progress:
                    progress.check()
            return subprocess.CompletedProcess(
                command, process.wait(), bytes(output), bytes(errors)
            )
        except BaseException:
            _end(process)
            raise


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin
    with contextlib.suppress(OSError), process.stdin as stream:  # it may end without reading
        stream.write(data)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and its children; rsync removes its half of a file."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
