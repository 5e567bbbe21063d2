"""The tokenizer of models with random weights: learned from the made-up words that they read."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedTokenizerFast

from ablation.generated import alpaca_records
from ablation.world.tokenizer import train_tokenizer

TOKENS, TEXTS = 8192, 4000  # at which a made-up word costs 1.3 tokens, as an English one does


def random_tokenizer(size: Mapping) -> PreTrainedTokenizerFast:
    """The tokenizer of a `random:` block, equal for equal `seed` and `vocabulary`."""
    texts = ("\n".join(record.values()) for record in alpaca_records(TEXTS, size["seed"]))
    return train_tokenizer(texts, min(TOKENS, size["vocabulary"]))
