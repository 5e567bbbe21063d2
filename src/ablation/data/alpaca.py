"""Instruction examples in the Alpaca form: records `{instruction, input, output}`, and their texts.

The micro-world's finetuning data have this form, and so do public data sets such as
yahma/alpaca-cleaned. This module does not import torch, because rules for data use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ablation.data.json_lines import read_json_lines

REQUIRED, OPTIONAL = ("instruction", "output"), ("input",)
FIELDS = ("instruction", "input", "output")


def read_records(path: str | Path) -> list[dict]:
    """The Alpaca records of a JSON Lines file.

    Raises ValueError if a record lacks a required field or has no text in it, with file, line and
    field, and if there is no record at all.
    """
    records = read_json_lines(path, _check)
    if not records:
        raise ValueError(
            f"{path}: no record; one {{instruction, input, output}} a line was expected"
        )
    return records


def first_records(documents: Sequence[Mapping], count: int, source: str) -> list[dict]:
    """The first `count` documents of a data set as records {instruction, input, output}.

    `source` is the name of the data set for messages. Raises ValueError if there are fewer
    documents, or if one of them is no Alpaca record, with the number of the document.
    """
    if len(documents) < count:
        raise ValueError(f"{source}: {count} records were requested, but it has {len(documents)}")
    records = []
    for number, document in enumerate(documents[:count], 1):
        try:
            _check(document)
        except ValueError as error:
            raise ValueError(f"{source}, record {number}: {error}") from None
        records.append({field: document.get(field) or "" for field in FIELDS})
    return records


def _check(record: Mapping) -> None:
    for field in REQUIRED:
        if field not in record:
            found = ", ".join(record) or "nothing"
            raise ValueError(f"field `{field}` is missing ({found} found): rename it, or add it")
    for field in (*REQUIRED, *OPTIONAL):
        text = record.get(field)
        if not isinstance(text, str) and not (text is None and field in OPTIONAL):
            raise ValueError(f"field `{field}`: text was expected, {text!r:.60} found")
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"field `{field}`: no valid Unicode ({error}): escape it") from None


def alpaca_prompt(example: Mapping[str, str]) -> str:
    """The text in front of the response. It ends with `### Response:`, without white space.

    The response follows after one space. Byte-level BPE splits a text before such a space, so the
    token ids of prompt and response together are those of the whole text. If `input` is absent or
    empty, the prompt has no block for it.
    """
    given = f"### Input:\n{example['input']}\n\n" if example.get("input") else ""
    return f"### Instruction:\n{example['instruction']}\n\n{given}### Response:"


def alpaca_text(example: Mapping[str, str]) -> str:
    """Prompt and response as one text."""
    return f"{alpaca_prompt(example)} {example['output']}"
