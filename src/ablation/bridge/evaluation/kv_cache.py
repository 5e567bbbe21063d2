"""The size of a KV cache: as measured, and as computed from a model's configuration."""

from __future__ import annotations

from transformers import DynamicCache, PreTrainedConfig

from ablation.bridge.model.embeddings import input_embeddings
from ablation.bridge.model.pair import Pair


def cache_bytes(cache: DynamicCache) -> int:
    """Bytes of all keys and values of a cache, counted on the tensors themselves."""
    tensors = [getattr(layer, name) for layer in cache.layers for name in ("keys", "values")]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def cache_formula(config: PreTrainedConfig, tokens: int, bytes_a_number: int) -> int:
    """Bytes of a cache: 2 x layers x key/value heads x head size x `bytes_a_number` x `tokens`.

    Query heads that share keys and values share one key/value head, which is counted once.
    """
    config = config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_key_value_heads
    return 2 * config.num_hidden_layers * heads * size * bytes_a_number * tokens


def memory_facts(pair: Pair) -> dict[str, int]:
    """What tables of memory need: the target's width, and each model's cache bytes a token."""
    source, target = pair.source.model, pair.target.model
    return {
        "target_width": input_embeddings(target).weight.shape[1],
        "target_kv_bytes_a_token": cache_formula(target.config, 1, target.dtype.itemsize),
        "source_kv_bytes_a_token": cache_formula(source.config, 1, source.dtype.itemsize),
    }
