"""Pauses the live display while a program asks the user a question.

The live display redraws the bottom of the terminal twice a second and captures what is written to
the standard streams. A program that prompts for an answer in the same process therefore wraps the
prompt:

    from snakemake_logger_plugin_live.pause import live_display_paused

    with live_display_paused():
        answer = input("Continue? [y/N] ")

A program that only uses the display when it is there looks the module up instead of importing it:
`sys.modules.get("snakemake_logger_plugin_live.pause")` is None unless the plugin is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

__all__ = ["Pause", "live_display_paused", "register_pause"]

Pause: TypeAlias = Callable[[], AbstractContextManager[None]]

_registered: Pause = nullcontext
_lock = threading.RLock()
_depth = 0  # how many pauses of one thread are nested in each other


@contextmanager
def live_display_paused() -> Iterator[None]:
    """Stop drawing, and give the standard streams back to the terminal, inside the `with` block.

    Without a live display this does nothing. Nested pauses of one thread act as one. A second
    thread waits until the first thread's pause ends, so two questions never mix. Jobs keep running,
    and Snakemake's log messages are still printed.
    """
    global _depth
    with _lock:
        outermost = _depth == 0
        _depth += 1
        try:
            with _registered() if outermost else nullcontext():
                yield
        finally:
            _depth -= 1


def register_pause(pause: Pause | None) -> None:
    """Use `pause` for every later call of `live_display_paused`; None removes the registered one.

    A display calls this when it takes the terminal, and with None when it gives the terminal back.
    `pause` returns a context manager that gives the terminal away on entry and takes it back on
    exit.
    """
    global _registered
    _registered = pause or nullcontext
