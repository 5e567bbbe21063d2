"""Reads the questions that rule bridge_questions has written."""

from __future__ import annotations

from pathlib import Path

from ablation.data.json_lines import read_json_lines


def read_questions(folder: str | Path, regime: str, split: str) -> list[dict]:
    """The records {question, answer, ...} of one split of a regime."""
    return read_json_lines(Path(folder) / regime / f"{split}.jsonl")
