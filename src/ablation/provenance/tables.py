"""Writes and reads the CSV tables of a study.

A spreadsheet runs a cell that begins like a formula, so a text that does gets an apostrophe before
it. Reading takes the apostrophe away again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import pandas as pd

from ablation.provenance.files import write_text
from ablation.provenance.next_actions import command_for, has_rule

# The start of a formula; texts that have an apostrophe before it get one more, to be read back.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


class InvalidTable(ValueError):
    """A file is not the expected table; the message says what is wrong with it."""


UNCHECKED_COLUMN = "unchecked"


def marked(frame: pd.DataFrame, unchecked: Sequence[str]) -> pd.DataFrame:
    """The table with a column that names the stages whose code was accepted by a reason alone.

    Without such stages, which is the rule, there is no such column.
    """
    return frame.assign(**{UNCHECKED_COLUMN: " ".join(unchecked)}) if unchecked else frame


def unchecked_in(*tables: pd.DataFrame) -> list[str]:
    """The stages that `marked` has written into these tables."""
    marks = (table.get(UNCHECKED_COLUMN, pd.Series(dtype=str)).dropna() for table in tables)
    return sorted({stage for cells in marks for stage in " ".join(cells.unique()).split()})


def write_table(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, which `read_csv` reads."""
    write_text(path, table_text(frame))


def table_text(frame: pd.DataFrame) -> str:
    """A table as the text of a CSV file in which no cell is a formula."""
    # Only with this line end does pandas quote a carriage return, after which readers begin a row.
    text = _with_texts(frame, _guarded).to_csv(index=False, lineterminator="\r\n")
    parts = text.split('"')  # every second part is in quotes
    parts[::2] = [part.replace("\r\n", "\n") for part in parts[::2]]
    return '"'.join(parts)


def read_csv(file: str | Path | IO[str], **options: Any) -> pd.DataFrame:
    """The table that `write_table` wrote; `options` are those of `pandas.read_csv`."""
    return _with_texts(pd.read_csv(file, **options), _as_it_was)


def _with_texts(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """The frame with every text changed; numbers and the types of columns stay as they are."""

    def changed(column: pd.Series) -> pd.Series:
        if isinstance(column.dtype, pd.CategoricalDtype):
            return column.cat.rename_categories(cell_changed)
        return pd.Series(map(cell_changed, column), column.index, column.dtype)

    def cell_changed(cell: Any) -> Any:
        return change(cell) if isinstance(cell, str) else cell

    texts = frame.select_dtypes(exclude=["number", "bool"])
    return frame.assign(**{str(name): changed(column) for name, column in texts.items()})


def _guarded(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _as_it_was(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_table(file: str | Path, columns: Iterable[str], **options: Any) -> pd.DataFrame:
    """The table in a CSV file that has at least one row and these columns.

    `options` are those of `pandas.read_csv`. Raises InvalidTable for any other file.
    """
    next_action = f"Give another file, or make this one again: {command_for(file)}"
    if not has_rule(file):
        there = sorted(map(str, {*Path(file).parent.glob("*.csv")} - {Path(file)}))[:10]
        next_action = f"Give a table of a study. Tables there: {', '.join(there) or 'none'}"
    if Path(file).suffix != ".csv":
        next_action = "Give a table of a study, which is a .csv file"
    if Path(file).is_dir():
        raise InvalidTable(f"{file} is a folder; a table in it was expected, such as recovery.csv")
    if not Path(file).is_file():
        raise InvalidTable(f"{file} was not found. {next_action}")
    try:
        frame = read_csv(file, **options)
    except ValueError as error:  # the file is empty, ragged or not text
        raise InvalidTable(f"{file} is no table: {str(error).strip()}. {next_action}") from None
    missing = [name for name in columns if name not in frame]
    if missing or frame.empty:
        found = f"it has {', '.join(map(repr, frame.columns[:20]))}, {len(frame)} rows"
        problem = f"has no column {', '.join(missing)}" if missing else "has no rows"
        raise InvalidTable(f"{file} {problem}; {found}. {next_action}")
    return frame
