"""Prints and writes the continuations that models generate for the same prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import pandas as pd
from rich.table import Table

from ablation.console.printable import printable
from ablation.console.tables import TextConsole, styled
from ablation.data.continuations import FORMATS, CannotSample, Continuation
from ablation.provenance.files import write_text
from ablation.provenance.tables import table_text

# Markdown reads these characters as links, images, emphasis, code or the end of a cell.
_MARKUP = re.compile(r"[\\`*_~\[\]|]")


def print_continuations(continuations: Sequence[Continuation]) -> None:
    """Print one table for each prompt, with a row for each model and a column for each mask."""
    console = TextConsole()
    masks = list(dict.fromkeys(c.mask for c in continuations))
    for prompt in dict.fromkeys(c.prompt for c in continuations):
        of_prompt = [c for c in continuations if c.prompt == prompt]
        answer = of_prompt[0].answer
        expected = f"\nexpected: {answer.strip()}" if answer else ""
        table = Table(title=styled(prompt + expected), title_justify="left", show_lines=True)
        for name in ("model", *masks):
            table.add_column(name, overflow="fold")
        for model, seed in dict.fromkeys((c.model, c.seed) for c in of_prompt):
            texts = [c.text for c in of_prompt if (c.model, c.seed) == (model, seed)]
            label = model if seed is None else f"{model} seed {seed}"
            table.add_row(label, *(text.strip() for text in texts))
        console.print(table)


def write_continuations(continuations: Sequence[Continuation], file: Path) -> None:
    """Write all continuations as .jsonl, .csv or a table in .md.

    Raises CannotSample for a file with another suffix.
    """
    rows = [asdict(c) for c in continuations]
    if file.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif file.suffix == ".csv":
        text = table_text(pd.DataFrame(rows).astype({"seed": "Int64"}))  # the base has no seed
    elif file.suffix == ".md":
        lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
        lines += ["| " + " | ".join(map(_cell, row.values())) + " |" for row in rows]
        text = "\n".join(lines) + "\n"
    else:
        raise CannotSample(f"--out {file}: expected a name that ends in {', '.join(FORMATS)}")
    write_text(file, text)


def _cell(value: object) -> str:
    """A value as a cell of a table in Markdown, in which its own markup is shown as text."""
    lines = [] if value is None else str(value).strip().splitlines()
    shown = (escape(printable(line), quote=False) for line in lines)
    return "<br>".join(_MARKUP.sub(r"\\\g<0>", line) for line in shown)
