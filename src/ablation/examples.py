"""Finetuning data: Alpaca records as token ids, and which of them are held out."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ablation.alpaca import alpaca_prompt, read_records
from ablation.packing import Example
from ablation.provenance import sha256_file


@dataclass(frozen=True)
class Examples:
    """Tokenized finetuning data: what is trained on, what is held out, what was dropped."""

    train: list[Example]
    heldout: list[Example]
    dropped: int
    fingerprint: str  # sha256 of the file they came from


def tokenize(record: Mapping, tokenizer, max_seq_len: int) -> Example | None:
    """One Alpaca record as prompt and response ids (EOS appended and supervised).

    Prompt and response are tokenized apart. The prompt starts with the tokenizer's BOS where it
    has one. Cut at `max_seq_len` tokens; None when no response token is left to learn.
    """
    prompt = tokenizer(alpaca_prompt(record), add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None:
        prompt = [tokenizer.bos_token_id, *prompt]
    response = tokenizer(" " + record["output"], add_special_tokens=False)["input_ids"]
    response = [*response, tokenizer.eos_token_id][: max(0, max_seq_len - len(prompt))]
    return Example(prompt[:max_seq_len], [response]) if response else None


def read_examples(
    file: str | Path, tokenizer, max_seq_len: int, heldout_fraction: float, seed: int
) -> Examples:
    """Tokenize a JSON-lines file of Alpaca records and hold out a fraction of it by seed."""
    records = read_records(file)
    tokenized = [tokenize(record, tokenizer, max_seq_len) for record in records]
    examples = [example for example in tokenized if example is not None]
    random.Random(f"heldout {seed}").shuffle(examples)
    held = max(1, round(heldout_fraction * len(examples)))
    if len(examples) <= held:
        raise ValueError(
            f"{file}: {len(records)} records leave {len(examples)} examples after tokenization at "
            f"max_seq_len {max_seq_len}; more than {held} are needed to hold some out"
        )
    dropped = len(records) - len(examples)
    return Examples(examples[held:], examples[:held], dropped, sha256_file(file))
