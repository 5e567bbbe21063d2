"""Texts as a terminal may show them."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and line ends


def printable(text: str) -> str:
    r"""`text` with its control characters, except tabs and line ends, written out, such as `\x1b`.

    A terminal would execute them: a job's output could change its title or move its cursor.
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
