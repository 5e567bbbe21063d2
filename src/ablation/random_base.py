"""A base for rehearsals: a Ministral-3 decoder of any size with random weights.

Everything but the meaning of the numbers is as in a real study: shapes, lengths, times, memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from transformers import Ministral3Config, Ministral3ForCausalLM

from ablation.atomic import atomic_path
from ablation.random_tokenizer import random_tokenizer
from ablation.world.decoder import dimensions

NOTICE = """\
# {study}: a rehearsal

The base of this study has random weights, and in place of hub data sets it reads made-up words at
the lengths of real ones. **The accuracies, losses and recovered fractions in this folder mean
nothing.** What is real: that every stage runs, how long it takes (`run.json`) and what memory it
needs.
"""


def ministral_config(size: Mapping, **more) -> Ministral3Config:
    """The configuration of a Ministral-3 decoder of the shape that a `random:` block gives."""
    return Ministral3Config(
        vocab_size=size["vocabulary"],
        **dimensions(size),
        tie_word_embeddings=True,
        **more,
    )


def write_random_base(
    size: Mapping, folder: str | Path, max_shard_size: str | int = "2GB"
) -> dict[str, int]:
    """Model (bfloat16, in shards) and tokenizer of the study's `random:` block as `folder`.

    Equal for equal `size` and versions of the packages. Returns {parameters, tokens}.
    """
    tokenizer = random_tokenizer(size)
    config = ministral_config(
        size,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=torch.bfloat16,
    )
    model = _random_model(config, size["seed"])
    with atomic_path(folder) as scratch:
        model.save_pretrained(scratch, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(scratch)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "tokens": len(tokenizer)}


def _random_model(config: Ministral3Config, seed: int) -> Ministral3ForCausalLM:
    """Gains of one, other weights normal at the configured range, drawn by all processors.

    Its buffers are not set: it is there to be saved. transformers' own start draws one number
    after the other, for minutes at 3.4 billion.
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
