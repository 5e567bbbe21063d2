"""The person at the terminal, who decides whether machines are rented, and what it shows."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and line ends


def printable(text: object) -> str:
    r"""`text` with its control characters, except tabs and line ends, written out, such as `\x1b`.

    A terminal would execute them, and a market or a machine may have sent them.
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


def make_printable(files: Iterable[str]) -> None:
    """Write out the control characters in text files, as `printable` does."""
    for file in files:
        shown = f"{file}.printable"
        with (
            open(file, encoding="utf-8", errors="surrogateescape") as text,
            open(shown, "w", encoding="utf-8", errors="surrogateescape") as copy,
        ):
            while part := text.read(1 << 20):
                copy.write(printable(part))
        os.replace(shown, file)


def at_a_terminal() -> Callable[[str], str] | None:
    """A function that asks the person at the terminal, like `input`; None without a terminal."""
    return input if sys.stdin.isatty() and sys.stderr.isatty() else None


def live_display_paused() -> AbstractContextManager[object]:
    """Pause the display of `--logger live`, if that plugin runs, so that a question can be read."""
    pause = sys.modules.get("snakemake_logger_plugin_live.pause")
    return pause.live_display_paused() if pause else nullcontext()
