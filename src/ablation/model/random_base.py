"""The base of a rehearsal: a Ministral-3 decoder of any size with random weights.

Shapes, lengths, times and memory are as in a real study. Accuracies and losses mean nothing.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import Ministral3Config, Ministral3ForCausalLM

from ablation.config.study import RandomBase
from ablation.model.bpe_tokenizer import random_tokenizer
from ablation.model.small_decoder import dimensions
from ablation.provenance.atomic import atomic_path

NOTICE = """\
# {study}: a rehearsal

The base of this study has random weights, and in place of hub data sets it reads made-up words at
the lengths of real ones. **The accuracies, losses and recovered fractions in this folder mean
nothing.** What is real: that every stage runs, how long it takes (`run.json`) and what memory it
needs.
"""


def ministral_config(block: RandomBase, **options: Any) -> Ministral3Config:
    """The configuration of a Ministral-3 decoder of the shape in a `random:` block.

    `options` are further arguments of the configuration.
    """
    return Ministral3Config(
        vocab_size=block.vocabulary,
        **dimensions(block),
        tie_word_embeddings=True,
        **options,
    )


def write_random_base(
    block: RandomBase, folder: str | Path, max_shard_size: str | int = "2GB"
) -> dict[str, int]:
    """Write the model (bfloat16, in shards) and tokenizer of a `random:` block as `folder`.

    Equal blocks give equal bytes under equal package versions. Returns {parameters, tokens}.
    """
    tokenizer = random_tokenizer(block.seed, block.vocabulary)
    config = ministral_config(
        block,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=torch.bfloat16,
    )
    model = _random_model(config, block.seed)
    with atomic_path(folder) as scratch:
        model.save_pretrained(scratch, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(scratch)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "tokens": len(tokenizer)}


def _random_model(config: Ministral3Config, seed: int) -> Ministral3ForCausalLM:
    """A model whose gains are one and whose other weights are normal at the configured range.

    All processors draw weights at once, because transformers' own initialization of 3.4 billion
    weights takes minutes. Buffers are not set: the model is only meant to be saved.
    """
    with torch.device("meta"):
        model = Ministral3ForCausalLM._from_config(config, dtype=config.dtype)
    model.to_empty(device="cpu").tie_weights()

    @torch.no_grad()
    def draw(number: int, weight: torch.Tensor) -> None:
        if weight.dim() < 2:
            weight.fill_(1)
        else:
            random = torch.Generator().manual_seed(seed * 2**20 + number)
            weight.normal_(0, config.initializer_range, generator=random)

    weights = list(model.parameters())
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(draw, range(len(weights)), weights))
    return model
