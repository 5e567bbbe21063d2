"""Checks, before anything runs, that a folder holds a complete checkpoint. No torch.

Provenance lists the visible files of a folder, so a checkpoint that refers to others is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Any one of these files holds the vocabulary of a tokenizer.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt")
# Files of an adapter, which transformers reads only with another library.
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# {file: keys, as a regular expression, by which it lets transformers read files of other folders}.
# An entry in the map of special tokens that is no token replaces an argument of the tokenizer.
REFERENCES = {
    "config.json": "configuration_files|transformers_weights",
    "tokenizer_config.json": "fast_tokenizer_files|vocab|merges|init_inputs",
    "special_tokens_map.json": r"(?!.*_tokens?$).*",
}


class NotTheCheckpoint(ValueError):
    """transformers loads another model from the folder than its files hold together."""


def checkpoint_problem(folder: Path) -> str | None:
    """Why `folder` cannot be loaded and what to do, or None if no problem was found.

    A checkpoint needs config.json, weights as safetensors (one file, or an index and all its
    shards) and a tokenizer. Only the header and the length of the weights are read.
    """
    try:
        refuse_adapter(folder)
        for file in (folder / "config.json", *folder.glob("tokenizer.json")):
            _read_object(file)
        refuse_references(folder)
        for shard in weight_files(folder):
            _check_shard(folder / shard)
        if not any((folder / name).is_file() for name in TOKENIZERS):
            raise ValueError(f"{folder} holds no tokenizer ({', '.join(TOKENIZERS)})")
    except NotTheCheckpoint as error:
        return str(error)
    except ValueError as error:
        return f"{error}: fetch it again"
    return None


def _read_object(file: Path) -> dict:
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object")
    return content


def refuse_adapter(folder: Path) -> None:
    """Raise NotTheCheckpoint if an adapter lies beside the weights: it would not be loaded."""
    for name in ADAPTERS:
        if (folder / name).is_file():
            raise NotTheCheckpoint(
                f"{folder} holds an adapter ({name}), which is never loaded: the base alone would "
                "be studied. Merge it (`merge_and_unload` of peft, `save_pretrained` into another "
                "folder) and give that folder, or remove the adapter's files to study the base"
            )


def chat_template_in(folder: Path) -> bool:
    """Whether the tokenizer of `folder` has a chat template."""
    file = folder / "tokenizer_config.json"
    inside = file.is_file() and bool(_read_object(file).get("chat_template"))
    return inside or (folder / "chat_template.jinja").is_file()


def refuse_references(folder: Path) -> None:
    """Raise ValueError if the configuration or the tokenizer of `folder` refers to other files."""
    for name, keys in REFERENCES.items():
        content = _read_object(folder / name) if (folder / name).is_file() else {}
        for key, value in content.items():
            if value and re.fullmatch(keys, key, re.DOTALL):
                raise ValueError(
                    f"{folder / name} chooses its files by `{key}`, so they are unknown"
                )


def weight_files(folder: Path) -> list[str]:
    """The names of the weight files; like transformers, a single file is preferred to an index.

    Raises ValueError unless an index names visible files of the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} holds neither {WEIGHTS} nor {INDEX}")
    shards = _read_object(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{folder / INDEX} names no weights (weight_map)")
    names = sorted(set(map(str, shards.values())))
    for name in names:
        if name != Path(name).name or name.startswith("."):
            raise ValueError(
                f"{folder / INDEX} names {name!r}, which is no visible file of this folder"
            )
    return names


def _check_shard(file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"{file} is missing, but {INDEX} names it")
    try:
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} holds no whole safetensors ({error})") from None
