"""Reads a CSV table of a study, and refuses any other file with a message."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.provenance.manifests import command_for


class InvalidTable(ValueError):
    """A file is not the expected table; the message says what is wrong with it."""


def read_table(file: str | Path, columns: Iterable[str], **options: Any) -> pd.DataFrame:
    """The table in a CSV file that has at least one row and these columns.

    `options` are those of `pandas.read_csv`. Raises InvalidTable for any other file.
    """
    next_action = f"Give another file, or make this one again: {command_for(file)}"
    if Path(file).suffix != ".csv":
        next_action = "Give a table of a study, which is a .csv file"
    if Path(file).is_dir():
        raise InvalidTable(f"{file} is a folder; a table in it was expected, such as recovery.csv")
    if not Path(file).is_file():
        raise InvalidTable(f"{file} was not found. {next_action}")
    try:
        frame = pd.read_csv(file, **options)
    except ValueError as error:  # the file is empty, ragged or not text
        raise InvalidTable(f"{file} is no table: {str(error).strip()}. {next_action}") from None
    missing = [name for name in columns if name not in frame]
    if missing or frame.empty:
        found = f"it has {', '.join(map(repr, frame.columns[:20]))}, {len(frame)} rows"
        problem = f"has no column {', '.join(missing)}" if missing else "has no rows"
        raise InvalidTable(f"{file} {problem}; {found}. {next_action}")
    return frame
