"""Makes small decoders of random weights from a `Shape` of the configuration."""

from __future__ import annotations

from typing import Any, TypeVar

from transformers import PreTrainedModel

from ablation.config.fields import GroupedShape, Shape

Family = TypeVar("Family", bound=PreTrainedModel)


def dimensions(shape: Shape) -> dict[str, Any]:
    """The arguments that give a Hugging Face configuration this shape."""
    heads = shape.key_value_heads if isinstance(shape, GroupedShape) else shape.heads
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": heads,
        "head_dim": shape.head_dim,
    }


def random_decoder(
    family: type[Family],
    vocabulary: int,
    shape: Shape,
    embedding_std: float,
    max_tokens: int,
    **options: Any,
) -> Family:
    """A decoder of class `family` with random float32 weights, for a `bpe_tokenizer`.

    vocabulary: rows of the embeddings.
    embedding_std: standard deviation of the embeddings.
    max_tokens: the longest row that the model reads.
    options: further arguments of the model's configuration.
    """
    config_class: Any = family.config_class  # its arguments differ by family
    config = config_class(
        vocab_size=vocabulary,
        **dimensions(shape),
        max_position_embeddings=max_tokens,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        **options,
    )
    model = family(config).float()
    # Wide embeddings make tokens distinct from the first step. With the usual 0.02 the model learns
    # to bind names to facts hundreds of steps later.
    scale = embedding_std / config.initializer_range
    model.get_input_embeddings().weight.data.mul_(scale)
    return model
