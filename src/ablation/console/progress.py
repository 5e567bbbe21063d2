"""Progress of long jobs in whole lines, and a copy of a job's output in its log."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from ablation.console.printable import printable

# What lm_eval warns of for every model and task of a job, and what says nothing of either.
REMARKS = (
    "`pretrained` model kwarg is not of type",
    "Passed an already-initialized model",
    "Custom kwargs can be passed to `--metadata`",
)


class Progress:
    """Prints lines like `3B seed 11: 120/300 (40 %) loss 1.234, 14 s left`.

    Snakemake runs jobs side by side. Progress bars of several jobs would overwrite each other, and
    whole lines do not; they also remain readable in a log.
    """

    def __init__(self, label: str, total: int, done: int = 0, every: float = 5.0) -> None:
        """`done` of `total` steps are done; `every` is the shortest time between lines, in s."""
        self.label, self.total, self.begun_at, self.every = label, total, done, every
        self.started = self.printed = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Print a line if the last one is old enough or all steps are done."""
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
    """A stream whose text goes to several streams; in all else it is the first of them.

    Control characters are written out, since Snakemake shows the log of a failed job. Carriage
    returns stay, with which progress bars begin their line anew.
    """

    def __init__(self, *streams: TextIO) -> None:
        self.streams = streams

    def write(self, text: str) -> int:
        shown = "\r".join(map(printable, text.split("\r")))
        for stream in self.streams:
            stream.write(shown)
        return len(text)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self.streams[0], name)


def _print_error(*error: Any) -> None:
    sys.stderr.write(printable("".join(traceback.format_exception(*error))))


def _is_no_remark(record: logging.LogRecord) -> bool:
    return not any(remark in str(record.msg) for remark in REMARKS)


@contextmanager
def copy_output_to(log: str) -> Iterator[None]:
    """Write what the block prints, and the traceback of its error, into the file `log` as well.

    Messages of Python's `logging` are written into `log` only, because a line from a library on
    the terminal would not show which of several jobs it belongs to. `REMARKS` are left out.
    """
    with open(log, "w", buffering=1, encoding="utf-8") as opened:
        file = cast(TextIO, _Tee(opened))
        logging.basicConfig(stream=file, force=True, format="%(name)s: %(message)s")
        logging.root.handlers[0].addFilter(_is_no_remark)
        out, err = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = cast(TextIO, _Tee(out, file)), cast(TextIO, _Tee(err, file))
        try:
            yield
        except SystemExit as ended:  # with a message
            file.write(f"{ended.code}\n")
            raise
        except BaseException:
            file.write(traceback.format_exc())
            sys.excepthook = _print_error  # Python itself would print control characters as well
            raise
        finally:
            sys.stdout, sys.stderr = out, err
