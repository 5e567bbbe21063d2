"""The person at the terminal, who decides whether machines are rented."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext


def at_a_terminal() -> Callable[[str], str] | None:
    """A function that asks the person at the terminal, like `input`; None without a terminal."""
    return input if sys.stdin.isatty() and sys.stderr.isatty() else None


def live_display_paused() -> AbstractContextManager[object]:
    """Pause the display of `--logger live`, if that plugin runs, so that a question can be read."""
    pause = sys.modules.get("snakemake_logger_plugin_live.pause")
    return pause.live_display_paused() if pause else nullcontext()
