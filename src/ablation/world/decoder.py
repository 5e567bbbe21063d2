"""Small decoders of our own, from nothing: a `Shape` of the configuration made into a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel


def dimensions(size: Mapping) -> dict[str, int]:
    """A `Shape` in the words of a Hugging Face configuration."""
    return {
        "hidden_size": size["width"],
        "intermediate_size": size["feed_forward"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size.get("key_value_heads", size["heads"]),
        "head_dim": size["head_dim"],
    }


def random_decoder(
    family: type[PreTrainedModel], vocabulary: int, size: Mapping, longest: int, **more: Any
) -> PreTrainedModel:
    """A decoder of `family` with random float32 weights, for tokens of `world.tokenizer`.

    `longest` is how many tokens it reads at most; `more` goes into its configuration.
    """
    config = family.config_class(
        vocab_size=vocabulary,
        **dimensions(size),
        max_position_embeddings=longest,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        **more,
    )
    model = family(config).float()
    # Wide embeddings make tokens distinct from the first step on; with the usual 0.02 binding
    # forms later by hundreds of steps.
    scale = size["embedding_std"] / config.initializer_range
    model.get_input_embeddings().weight.data.mul_(scale)
    return model
