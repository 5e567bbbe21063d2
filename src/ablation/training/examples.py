"""Finetuning data: tokenizes Alpaca records and holds some of them out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ablation.data.alpaca import FIELDS, alpaca_prompt, read_records
from ablation.model.packing import Example
from ablation.provenance.files import sha256_file
from ablation.vocabulary.formats import FORMATS, Format

CORRECTED = FORMATS["corrected"]
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
    records: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_len: int,
    form: Format = CORRECTED,
) -> Iterator[Example | None]:
    """Alpaca records as token ids of prompt and response, with EOS at the end of the response.

    Prompt and response are tokenized separately. An example is cut at `max_seq_len` tokens; it is
    None if no response token is left, or if `form` takes no example from the record.
    """
    has_bos = form.bos and tokenizer.bos_token_id is not None
    first = [tokenizer.bos_token_id] if has_bos else []
    for start in range(0, len(records), TOGETHER):
        part = [_fields(record, form) for record in records[start : start + TOGETHER]]
        prompts = [alpaca_prompt(fields) + form.prompt_end for fields in part]
        responses = [form.response_start + fields["output"] for fields in part]
        encoded = [_token_ids(tokenizer, texts) for texts in (prompts, responses)]
        for fields, prompt, response in zip(part, *encoded, strict=True):
            prompt = [*first, *prompt]
            response = [*response, tokenizer.eos_token_id][: max(0, max_seq_len - len(prompt))]
            refused = form.stripped and not (fields["instruction"] and fields["output"])
            kept = response and not refused
            yield Example(prompt[:max_seq_len], [response]) if kept else None


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]
    backend.no_truncation()
    backend.no_padding()
    found = backend.encode_batch_fast(texts, add_special_tokens=False)  # in half of the time
    return [encoding.ids for encoding in found]


def _fields(record: Mapping[str, Any], form: Format) -> dict[str, str]:
    fields = {name: record.get(name) or "" for name in FIELDS}
    return {n: text.strip() for n, text in fields.items()} if form.stripped else fields


def read_examples(
    file: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_len: int,
    heldout_fraction: float,
    seed: int,
    max_examples: int | None = None,
    form: Format = CORRECTED,
) -> Examples:
    """Tokenize a JSON-lines file of Alpaca records and hold out a fraction of it by `seed`.

    Of the other records, at most `max_examples` are taken. Raises ValueError if no example is
    left to train on, or none is held out.
    """
    records = read_records(file)
    parts = SPLITS[form.split](len(records), heldout_fraction, seed)
    chosen = [parts[0][:max_examples], parts[1]]
    made = [tokenize([records[n] for n in part], tokenizer, max_seq_len, form) for part in chosen]
    train, heldout = ([example for example in part if example is not None] for part in made)
    if not (train and heldout):
        raise ValueError(
            f"{file}: {len(records)} records leave {len(train)} examples to train on and "
            f"{len(heldout)} held out, after tokenization at max_seq_len {max_seq_len}; at least "
            "one of each is needed"
        )
    dropped = sum(map(len, chosen)) - len(train) - len(heldout)
    families = sorted({record["family"] for record in records if "family" in record})
    return Examples(train, heldout, dropped, sha256_file(file), families)


def _shuffled(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of the records to train on, and of those held out, which `seed` draws."""
    numbers = list(range(count))
    random.Random(f"heldout {seed}").shuffle(numbers)
    held = max(1, round(fraction * count))
    return numbers[held:], numbers[:held]


def _as_datasets(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """As `_shuffled`, with the draws of `datasets`: a split, and a shuffle of each part."""
    from datasets import Dataset

    numbers = Dataset.from_dict({"number": range(count)})
    parts = numbers.train_test_split(test_size=fraction, seed=seed)
    train, heldout = (list(parts[p].shuffle(seed=seed)["number"]) for p in ("train", "test"))
    return train, heldout


SPLITS = {"shuffled": _shuffled, "datasets": _as_datasets}
