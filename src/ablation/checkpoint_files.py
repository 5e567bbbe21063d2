"""Whether the folder of a checkpoint holds a whole model, told before anything runs. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Any one of them holds a tokenizer's vocabulary.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt")


def checkpoint_fault(folder: Path) -> str | None:
    """What keeps `folder` from being loaded, and what to do; None when nothing is seen.

    config.json, weights as safetensors (one file, or an index and all its shards) and a tokenizer
    must stand there. Of the weights only header and length are read.
    """
    try:
        for file in (folder / "config.json", *folder.glob("tokenizer.json")):
            _mapping(file)
        for shard in _shards(folder):
            _whole(folder / shard)
        if not any((folder / name).is_file() for name in TOKENIZERS):
            raise ValueError(f"{folder} holds no tokenizer ({', '.join(TOKENIZERS)})")
    except ValueError as fault:
        return f"{fault}: fetch it again"
    return None


def _mapping(file: Path) -> dict:
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as fault:
        raise ValueError(f"{file} is no JSON ({fault})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object")
    return content


def _shards(folder: Path) -> list[str]:
    """The names of the weight files, as transformers looks for them: one file before an index."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} holds neither {WEIGHTS} nor {INDEX}")
    shards = _mapping(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{folder / INDEX} names no weights (weight_map)")
    return sorted(set(map(str, shards.values())))


def _whole(file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"{file} is missing, but {INDEX} names it")
    try:
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError) as fault:
        raise ValueError(f"{file} holds no whole safetensors ({fault})") from None
