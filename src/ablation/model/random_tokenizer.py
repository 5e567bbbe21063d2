"""The tokenizer of models with random weights, trained on the made-up words that they read."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from ablation.data.synthetic import alpaca_records
from ablation.model.bpe_tokenizer import train_tokenizer

# With these numbers a made-up word takes 1.3 tokens, like an English word.
TOKENS, TEXTS = 8192, 4000


def random_tokenizer(seed: int, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocabulary` tokens on texts made from `seed`."""
    texts = ("\n".join(record.values()) for record in alpaca_records(TEXTS, seed))
    return train_tokenizer(texts, min(TOKENS, vocabulary))
