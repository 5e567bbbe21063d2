"""Finetuning data: tokenizes Alpaca records and holds some of them out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ablation.data.alpaca import alpaca_prompt, read_records
from ablation.model.packing import Example
from ablation.provenance.files import sha256_file

TOGETHER = 1000  # records that are tokenized in one call, on all processors


@dataclass(frozen=True)
class Examples:
    """Tokenized finetuning data.

    train, heldout: the examples to train on, and those for evaluations.
    dropped: the number of records without an example.
    fingerprint: sha256 of the file of records.
    families: the families of all records, sorted; empty if the records name none.
    """

    train: list[Example]
    heldout: list[Example]
    dropped: int
    fingerprint: str
    families: list[str]


def tokenize(
    records: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, max_seq_len: int
) -> Iterator[Example | None]:
    """Alpaca records as token ids of prompt and response, with EOS at the end of the response.

    Prompt and response are tokenized separately. The prompt starts with the tokenizer's BOS, if it
    has one. An example is cut at `max_seq_len` tokens; it is None if no response token is left.
    """
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for start in range(0, len(records), TOGETHER):
        part = records[start : start + TOGETHER]
        prompts = tokenizer([alpaca_prompt(r) for r in part], add_special_tokens=False)
        responses = tokenizer([" " + r["output"] for r in part], add_special_tokens=False)
        for prompt, response in zip(prompts["input_ids"], responses["input_ids"], strict=True):
            prompt = [*first, *prompt]
            response = [*response, tokenizer.eos_token_id][: max(0, max_seq_len - len(prompt))]
            yield Example(prompt[:max_seq_len], [response]) if response else None


def read_examples(
    file: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_len: int,
    heldout_fraction: float,
    seed: int,
) -> Examples:
    """Tokenize a JSON-lines file of Alpaca records and hold out a fraction of it by `seed`.

    Raises ValueError if no example is left to train on.
    """
    records = read_records(file)
    examples = [e for e in tokenize(records, tokenizer, max_seq_len) if e is not None]
    random.Random(f"heldout {seed}").shuffle(examples)
    held = max(1, round(heldout_fraction * len(examples)))
    if len(examples) <= held:
        raise ValueError(
            f"{file}: {len(records)} records leave {len(examples)} examples after tokenization at "
            f"max_seq_len {max_seq_len}; more than {held} are needed to hold some out"
        )
    dropped = len(records) - len(examples)
    families = sorted({record["family"] for record in records if "family" in record})
    return Examples(examples[held:], examples[:held], dropped, sha256_file(file), families)
