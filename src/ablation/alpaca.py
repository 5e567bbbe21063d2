"""The Alpaca form of an instruction example: `{instruction, input, output}` as prompt and response.

Serves the micro-world's own data and real sets with the same fields (yahma/alpaca-cleaned). No
torch here: data rules import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ablation.provenance import read_json_lines

REQUIRED, OPTIONAL = ("instruction", "output"), ("input",)
FIELDS = ("instruction", "input", "output")


def read_records(path: str | Path) -> list[dict]:
    """The Alpaca records of a JSON-lines file.

    Raises ValueError that names file, line and field when a record lacks one or holds no text in
    it, and when there is no record at all.
    """
    records = read_json_lines(path, _check)
    if not records:
        raise ValueError(
            f"{path}: no record; one {{instruction, input, output}} a line is expected"
        )
    return records


def first_records(documents: Sequence[Mapping], count: int, source: str) -> list[dict]:
    """The first `count` documents of a data set as {instruction, input, output}.

    Raises ValueError that names `source`, and the document by its number, when there are fewer or
    one is no Alpaca record.
    """
    if len(documents) < count:
        raise ValueError(f"{source}: {count} records are asked for, it has {len(documents)}")
    records = []
    for number, document in enumerate(documents[:count], 1):
        try:
            _check(document)
        except ValueError as fault:
            raise ValueError(f"{source}, record {number}: {fault}") from None
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
        except UnicodeEncodeError as fault:
            raise ValueError(f"field `{field}`: no valid Unicode ({fault}): escape it") from None


def alpaca_prompt(example: Mapping[str, str]) -> str:
    """The text in front of the response; ends in `### Response:`, without white space.

    The response follows after one space. Byte-level BPE splits the text before that space, so that
    prompt and response tokenized apart give the same ids as the whole text tokenized at once. An
    absent or empty `input` leaves its block out.
    """
    given = f"### Input:\n{example['input']}\n\n" if example.get("input") else ""
    return f"### Instruction:\n{example['instruction']}\n\n{given}### Response:"


def alpaca_text(example: Mapping[str, str]) -> str:
    """Prompt and response as one text."""
    return f"{alpaca_prompt(example)} {example['output']}"
