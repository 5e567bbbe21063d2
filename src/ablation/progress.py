"""Progress of long work, readable on a terminal and in a log, with several jobs side by side."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from contextlib import contextmanager


class Progress:
    """Lines like `3B seed 11: 120/300 (40 %) loss 1.234, 14 s left`, at most one every `every` s.

    Whole lines rather than a bar: Snakemake runs jobs side by side, and bars that redraw
    themselves would overwrite each other.
    """

    def __init__(self, label: str, total: int, done: int = 0, every: float = 5.0):
        self.label, self.total, self.begun_at, self.every = label, total, done, every
        self.started = self.printed = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if done < self.total and now - self.printed < self.every:
            return
        self.printed = now
        spent = now - self.started
        left = spent / max(done - self.begun_at, 1) * (self.total - done)
        tail = f"{left:.0f} s left" if done < self.total else f"done in {spent:.0f} s"
        share = f"{done}/{self.total} ({100 * done // max(self.total, 1)} %)"
        parts = [p for p in (note, tail) if p]
        print(f"{self.label}: {share} {', '.join(parts)}", file=sys.stderr, flush=True)


class _Tee:
    """Text that goes to the terminal and to a log at once."""

    def __init__(self, terminal, log):
        self.terminal, self.log = terminal, log

    def write(self, text: str) -> int:
        self.log.write(text)
        return self.terminal.write(text)

    def flush(self) -> None:
        self.log.flush()
        self.terminal.flush()

    def __getattr__(self, name: str):
        return getattr(self.terminal, name)


@contextmanager
def logged(log: str):
    """Keep what a job prints, and the traceback that ends it, in `log` as well.

    What libraries log goes to `log` alone: beside other jobs' lines nobody could tell whose it is.
    """
    with open(log, "w", buffering=1) as file:
        logging.basicConfig(stream=file, force=True, format="%(name)s: %(message)s")
        out, err = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(out, file), _Tee(err, file)
        try:
            yield
        except BaseException:
            file.write(traceback.format_exc())
            raise
        finally:
            sys.stdout, sys.stderr = out, err
