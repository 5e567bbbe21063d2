"""Reads instruction data of the user: Alpaca records, or chats, from JSON Lines, JSON or parquet.

A chat becomes one record. Its last answer is the output, and what stands before it the instruction:
a single turn as it is, several turns each with its role in front. Turns behind it are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablation.data.alpaca import first_records
from ablation.data.benchmarks import read_documents
from ablation.data.json_lines import read_json_lines

# {field of a chat: the fields of each turn for its role and its text}
CHATS = {"messages": ("role", "content"), "conversations": ("from", "value")}
ROLES = {
    "system": "System",
    "user": "User",
    "human": "User",
    "assistant": "Assistant",
    "gpt": "Assistant",
}


def read_instructions(file: Path) -> list[dict]:
    """The records {instruction, input, output} of a file.

    Raises ValueError, with the file, the number of the record, its field, what was found and what
    was expected.
    """
    records = []
    for number, row in enumerate(_rows(file), 1):
        try:
            records.append(_alpaca(row))
        except ValueError as error:
            raise ValueError(f"{file}, record {number}: {error}") from None
    return first_records(records, len(records), str(file))


def _rows(file: Path) -> list[Any]:
    if file.suffix == ".parquet":
        return read_documents(file)
    try:
        if file.suffix == ".json" and file.read_text("utf-8-sig").lstrip()[:1] == "[":
            return json.loads(file.read_text("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file}: a list of records in JSON was expected ({error})") from None
    return read_json_lines(file)


def _alpaca(row: Any) -> Mapping:
    """A row as an Alpaca record, whose fields are not checked yet."""
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object was expected, {row!r:.60} found")
    fields = [field for field in CHATS if row.get(field) is not None]
    return row if "instruction" in row or not fields else _from_chat(fields[0], row[fields[0]])


def _from_chat(field: str, chat: Any) -> Mapping:
    turns = [_turn(f"{field}[{n}]", turn, *CHATS[field]) for n, turn in enumerate(_listed(chat))]
    answers = [n for n, (role, _) in enumerate(turns) if role == "Assistant"]
    if not answers or not answers[-1]:
        found = ", ".join(role for role, _ in turns) or "nothing"
        raise ValueError(f"field `{field}`: a turn and then an answer were expected, {found} found")
    before, (_, output) = turns[: answers[-1]], turns[answers[-1]]
    texts = [text if len(before) == 1 else f"{role}: {text}" for role, text in before]
    return {"instruction": "\n\n".join(texts), "input": "", "output": output}


def _listed(chat: Any) -> list:
    return chat if isinstance(chat, list) else [chat]


def _turn(place: str, turn: Any, role: str, text: str) -> tuple[str, str]:
    """The role and the text of a turn."""
    if not isinstance(turn, dict):
        raise ValueError(f"field `{place}`: {{{role}, {text}}} was expected, {turn!r:.60} found")
    if turn.get(role) not in ROLES:
        expected = ", ".join(ROLES)
        raise ValueError(
            f"field `{place}.{role}`: one of {expected} was expected, {turn.get(role)!r:.60} found"
        )
    if not isinstance(turn.get(text), str):
        raise ValueError(f"field `{place}.{text}`: text was expected, {turn.get(text)!r:.60} found")
    return ROLES[turn[role]], turn[text]
