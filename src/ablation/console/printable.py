"""Texts as a terminal may show them."""

from __future__ import annotations

import json
import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and line ends


def printable(text: object) -> str:
    r"""`text` with its control characters, except tabs and line ends, written out, such as `\x1b`.

    A terminal would execute them: a generated text, or the message of a service, could change its
    title, move its cursor over other lines, or hide what follows.
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


def printable_json(value: object, **options: Any) -> str:
    r"""`value` as JSON with sorted keys, whose control characters are escapes such as `\u001b`."""
    return json.dumps(value, sort_keys=True, **options).replace("\x7f", r"\u007f")
