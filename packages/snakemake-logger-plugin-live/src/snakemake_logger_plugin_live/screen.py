"""The terminal while the live display is on it.

The display holds the terminal's file descriptor for itself and replaces the process's stream by a
pipe. So whatever this process and its jobs write comes through the pipe, and is printed above the
display instead of through it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live

from .pause import register_pause
from .printable import printable
from .progress import parse


class Screen:
    """Shows `draw(width)` at the bottom of the terminal and prints lines above it.

    `stream` is the process's standard output or error, and must be a terminal. Lines of progress
    that jobs write are dropped, because the display shows them.
    """

    def __init__(
        self, stream: TextIO, draw: Callable[[int], RenderableType], no_color: bool
    ) -> None:
        stream.flush()
        self._captured = stream.fileno()
        self._terminal = os.dup(self._captured)
        file = os.fdopen(self._terminal, "w")
        self._console = Console(file=file, highlight=False, no_color=no_color or None)
        reading, self._pipe = os.pipe()
        os.dup2(self._pipe, self._captured)
        self._reader = threading.Thread(target=self._print_captured, args=(reading,), daemon=True)
        self._reader.start()
        self._live = Live(
            get_renderable=lambda: draw(self._console.width),
            console=self._console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        self._closed = False
        register_pause(self._paused)

    def print(self, text: str) -> None:
        """Print text above the display."""
        self._console.print(printable(text), markup=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the display and give the terminal back; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        register_pause(None)
        self._live.stop()
        os.dup2(self._terminal, self._captured)
        os.close(self._pipe)  # the last writer in this process, so the reader ends
        self._reader.join(timeout=2)
        self._console.file.flush()

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Give the terminal away. Jobs that run already keep writing into the pipe."""
        self._live.stop()
        os.dup2(self._terminal, self._captured)
        try:
            yield
        finally:
            if not self._closed:
                os.dup2(self._pipe, self._captured)
                self._live.start()

    def _print_captured(self, reading: int) -> None:
        with open(reading, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not parse(line):
                    self.print(line.rstrip("\n"))
