"""Trains byte-level BPE tokenizers, for the micro-world and for rehearsals.

A byte-level tokenizer can encode any text.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ablation.data.synthetic import alpaca_records

PAD, BOS, EOS = "<pad>", "<s>", "</s>"  # ids 0, 1, 2
# Of tokenizers of rehearsals. With these numbers a made-up word takes 1.3 tokens, like an English
# word.
RANDOM_TOKENS, RANDOM_TEXTS = 8192, 4000


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocabulary` tokens on `texts`.

    Equal texts give equal tokenizers. `tokenizer(text)` puts BOS first, unless it is called with
    `add_special_tokens=False`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bos_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def random_tokenizer(seed: int, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocabulary` tokens on made-up words, drawn with `seed`."""
    texts = ("\n".join(record.values()) for record in alpaca_records(RANDOM_TEXTS, seed))
    return train_tokenizer(texts, min(RANDOM_TOKENS, vocabulary))
