"""The console on which commands print their tables and trees."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from ablation.console.printable import printable

FALLBACK_WIDTH = 170  # characters, where the output is not a terminal


class TextConsole(Console):
    """A console on standard output that shows every text as it is.

    No text is read as markup or as the name of an emoji, and control characters are written out. A
    part with a style of its own is a `styled` text.
    """

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else FALLBACK_WIDTH
        super().__init__(width=width, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text as rich prints it."""
        return super().render_str(printable(text), **options)


def styled(text: str, style: str = "") -> Text:
    """A text in a style of rich, with its control characters written out."""
    return Text(printable(text), style)
