"""Recognizes, by config.json alone, model families that no attention mask can ablate. No torch.

A study of such a model is refused when it is loaded. Families that are not named here are compared
with their stock forward by `ablation.model.checks.agreement`, and audited by
`ablation.model.leak_audit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_STATE_SPACE = "state-space layers carry information forward outside attention"
_LINEAR = "linear attention or recurrent layers have no attention matrix to mask"
_CONVOLUTION = "convolution layers mix tokens"
_ALIBI = "ALiBi: its causal bias is part of the model, and positions are counted in row indices"
_CHUNKS = "chunked attention is counted in row indices"
_ROW_POSITIONS = "it counts positions in row indices, whatever position ids it is given"
_LATER_START = "its positions start after the number of its padding token, not at 0"
_NO_READY_MASK = "it takes no ready attention mask of queries and keys"

_REASONS = {
    **dict.fromkeys(
        ["bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "mamba", "mamba2"]
        + ["nemotron_h", "zamba", "zamba2"],
        _STATE_SPACE,
    ),
    **dict.fromkeys(
        ["bailing_hybrid", "kimi_linear", "minimax", "olmo_hybrid", "qwen3_5", "qwen3_5_moe"]
        + ["qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "recurrent_gemma", "rwkv", "xlstm"],
        _LINEAR,
    ),
    **dict.fromkeys(["lfm2", "lfm2_moe", "lfm3", "zaya"], _CONVOLUTION),
    **dict.fromkeys(["bloom", "mpt"], _ALIBI),
    **dict.fromkeys(["llama4", "llama4_text"], _CHUNKS),
    **dict.fromkeys(
        ["bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "cpmant", "marian", "mbart"]
        + ["mvp", "pegasus", "plbart", "roformer", "trocr"],
        _ROW_POSITIONS,
    ),
    **dict.fromkeys(
        ["camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta"]
        + ["xlm-roberta-xl", "xmod"],
        _LATER_START,
    ),
    **dict.fromkeys(["openai-gpt", "prophetnet", "xlm", "xlnet"], _NO_READY_MASK),
    "gpt_neo": "its causal mask and its windows are buffers that count columns",
}
_MASKABLE = {"full_attention", "sliding_attention"}
# The names that families give to the number of positions, in the order in which they are read.
_POSITIONS = (
    *("max_position_embeddings", "n_positions", "max_target_positions", "max_sequence_length"),
    "n_ctx",
)


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a model's decoder, which a multimodal model holds in a block."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else config


def positions(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model of a config.json reads, or None if the file does not say it."""
    text = text_part(config)
    return next((text[name] for name in _POSITIONS if isinstance(text.get(name), int)), None)


def unsupported_reason(config: Mapping[str, Any]) -> str | None:
    """Why no mask can ablate the model of a config.json, or None if no reason was found."""
    text = text_part(config)
    for model_type in (config.get("model_type"), text.get("model_type")):
        if isinstance(model_type, str) and model_type in _REASONS:
            return _REASONS[model_type]
    if config.get("is_encoder_decoder"):
        return "an encoder-decoder has no prompt and response in one row"
    if text.get("alibi") or text.get("use_alibi"):
        return _ALIBI
    if text.get("attention_chunk_size") is not None:
        return _CHUNKS
    if text.get("use_bidirectional_attention") in (True, "all"):
        return "its configuration makes its attention bidirectional (use_bidirectional_attention)"
    layers = text.get("layer_types")
    unknown = sorted(set(map(str, layers if isinstance(layers, list) else ())) - _MASKABLE)
    if unknown:
        return f"layers of type {', '.join(unknown)} take no ready attention mask"
    return None


def refusal(config: Mapping[str, Any]) -> str | None:
    """The message for a model that no mask can ablate, or None."""
    reason = unsupported_reason(config)
    return reason and (
        f"model type {config.get('model_type')!r} cannot be ablated by its attention mask: "
        f"{reason}. Use a decoder of full or sliding-window softmax attention (Ministral, Llama, "
        "Qwen-3); docs/models.md lists the families that were tried"
    )
