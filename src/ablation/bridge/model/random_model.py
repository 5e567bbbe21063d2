"""A decoder of random weights whose folder has no weights: they are drawn when it is loaded.

Rehearsals use it: shapes, times and memory are those of the real model, but 15 GB of random weights
are neither written nor read. Weights are drawn on the device that will hold them, so equal seeds
give equal weights only on equal devices.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from ablation.config.bridge_blocks import RandomModel
from ablation.model.bpe_tokenizer import random_tokenizer
from ablation.model.checkpoints import from_config, read_config
from ablation.model.small_decoder import dimensions
from ablation.provenance.atomic import atomic_path

RANDOM_WEIGHTS = "random_weights.json"
CHAT = "{{ bos_token }}{% for m in messages %}[user] {{ m['content'] }} [model]{% endfor %}"


def write_random_model(size: RandomModel, folder: str | Path) -> dict[str, int]:
    """Write config.json, the tokenizer and the seed of the weights; return {parameters, tokens}."""
    tokenizer = random_tokenizer(size.seed, size.vocabulary)
    tokenizer.chat_template = CHAT
    config = AutoConfig.for_model(
        size.family,
        vocab_size=size.vocabulary,
        **dimensions(size),
        max_position_embeddings=32768,
        sliding_window=None,  # as in Mistral 0.3; Llama has no such key
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.device("meta"):
        parameters = sum(p.numel() for p in from_config(config).parameters())
    with atomic_path(folder) as scratch:
        config.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        (scratch / RANDOM_WEIGHTS).write_text(json.dumps({"seed": size.seed}) + "\n", "utf-8")
    return {"parameters": parameters, "tokens": len(tokenizer)}


def is_random(folder: str | Path) -> bool:
    """Whether `folder` was written by `write_random_model`."""
    return (Path(folder) / RANDOM_WEIGHTS).is_file()


def random_model(folder: str | Path, dtype: str, attention: str, device: str) -> PreTrainedModel:
    """The model of such a folder in eval mode, with weights drawn on `device`."""
    seed = json.loads((Path(folder) / RANDOM_WEIGHTS).read_text("utf-8"))["seed"]
    config = read_config(folder)
    torch.manual_seed(seed)
    with torch.device(device):
        model = from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention)
    return model.eval()
