"""Reads JSON Lines files. Its values enter results, so this module is part of code hashes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path


def read_json_lines(
    path: str | Path,
    check: Callable[[dict], object] = lambda record: None,
    appended: bool = False,
) -> list[dict]:
    """The records of a file with one JSON object a line; blank lines are skipped.

    Lines end at "\\n" only, because a text in JSON may contain other line separators.

    check: is called with each record and raises ValueError for a wrong one.
    appended: the file grows line by line, so its last line may be incomplete. Such a line is left
        out with a warning.

    Raises ValueError, which names file and line, for any line that is no JSON object in UTF-8 or
    that `check` refuses.
    """
    records = []
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if not text:
                continue
            record = json.loads(text)
            if not isinstance(record, dict):
                raise ValueError(f"a JSON object was expected, {text[:60]} found")
            check(record)
        except ValueError as error:
            if appended and number == len(lines):
                warnings.warn(f"{path}, line {number}: cut off, left out", stacklevel=2)
                break
            raise ValueError(f"{path}, line {number}: {error}") from None
        records.append(record)
    return records
