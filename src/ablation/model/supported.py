"""Refuses model families that mix tokens in ways that no attention mask controls."""

from __future__ import annotations

from transformers import PreTrainedConfig


class UnsupportedArchitecture(ValueError):
    """The model mixes tokens outside masked attention, so no mask can ablate it."""


_STATE_SPACE = "state-space layers carry information forward outside attention"
_LINEAR = "linear attention or recurrent layers have no attention matrix to mask"
_ALIBI = "ALiBi: its causal bias is part of the model, and positions are counted in row indices"

_UNSUPPORTED_MODEL_TYPES = {
    **dict.fromkeys(
        ["bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "granitemoe_swa", "jamba"]
        + ["mamba", "mamba2", "nemotron_h", "zamba", "zamba2"],
        _STATE_SPACE,
    ),
    **dict.fromkeys(
        ["bailing_hybrid", "kimi_linear", "minimax", "olmo_hybrid", "qwen3_5", "qwen3_5_moe"]
        + ["qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "recurrent_gemma", "rwkv", "xlstm"],
        _LINEAR,
    ),
    **dict.fromkeys(["lfm2", "lfm2_moe", "lfm3", "zaya"], "convolution layers mix tokens"),
    **dict.fromkeys(["bloom", "mpt"], _ALIBI),
    **dict.fromkeys(["llama4", "llama4_text"], "chunked attention is counted in row indices"),
}


def refuse_unsupported(config: PreTrainedConfig) -> None:
    """Raise UnsupportedArchitecture, with the model type and the reason, if no mask can be set.

    Families are recognized by their names and by the settings in their configurations. The audit of
    `ablation.model.leak_audit` finds all others on the model itself.
    """
    text = config.get_text_config()
    layer_types = set(getattr(text, "layer_types", None) or ())
    unknown_layers = layer_types - {"full_attention", "sliding_attention"}
    reason = None
    for model_type in (config.model_type, text.model_type):
        reason = reason or _UNSUPPORTED_MODEL_TYPES.get(model_type)
    if reason is None and getattr(config, "is_encoder_decoder", False):
        reason = "an encoder-decoder has no prompt and response in one row"
    if reason is None and (getattr(text, "alibi", False) or getattr(text, "use_alibi", False)):
        reason = _ALIBI
    if reason is None and getattr(text, "attention_chunk_size", None) is not None:
        reason = _UNSUPPORTED_MODEL_TYPES["llama4"]
    if reason is None and unknown_layers:
        reason = f"layers of type {', '.join(sorted(unknown_layers))} take no ready attention mask"
    if reason is not None:
        raise UnsupportedArchitecture(
            f"model type {config.model_type!r} cannot be ablated by its attention mask: {reason}. "
            "Use a decoder of full or sliding-window softmax attention (Ministral, Llama, Qwen-3)."
        )
