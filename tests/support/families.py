"""Tiny checkpoints of random weights of every decoder family that transformers contains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.support.tiny import tiny_tokenizer

FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
POSITIONS = 256


def _each(size: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), size)


# Configurations name their sizes in many ways.
SIZES = {
    **_each(32, "hidden_size d_model n_embd embed_dim emb_dim dim_model word_embed_proj_dim"),
    **_each(32, "model_dim dim_embed hidden_dim embedding_size"),
    **_each(48, "intermediate_size n_inner d_ff ffn_dim decoder_ffn_dim encoder_ffn_dim d_inner"),
    **_each(48, "dim_ff ffn_hidden_size dff feed_forward_size moe_intermediate_size"),
    **_each(48, "shared_expert_intermediate_size shared_intermediate_size intermediate_size_mlp"),
    **_each(48, "expert_ffn_hidden_size block_ff_dim"),
    **_each(2, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers"),
    **_each(2, "num_decoder_layers num_encoder_layers"),
    **_each(4, "num_attention_heads n_head n_heads num_heads decoder_attention_heads"),
    **_each(4, "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads"),
    **_each(2, "num_key_value_heads num_kv_heads"),
    **_each(8, "head_dim attention_head_dim kv_channels d_kv dim_head attention_head_size"),
    **_each(POSITIONS, "max_position_embeddings n_positions max_sequence_length n_ctx"),
    **_each(POSITIONS, "max_target_positions max_seq_len max_seq_length"),
    **_each(4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    **_each(2, "num_experts_per_tok moe_k top_k_experts moe_top_k num_experts_per_token"),
    **_each(320, "vocab_size decoder_vocab_size text_vocab_size vocab_size_per_layer_input"),
    **_each(1, "n_group topk_group first_k_dense_replace decoder_start_token_id"),
    **_each(16, "q_lora_rank kv_lora_rank"),
    **_each(8, "qk_nope_head_dim qk_rope_head_dim v_head_dim hidden_size_per_layer_input"),
    **_each(0.25, "initializer_range init_std"),
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"sliding_window": 7, "initializer_factor": 1.0, "num_kv_shared_layers": 0},
    **{"mlp_only_layers": [], "is_decoder": True},
}
LATENT = "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa kimi_linear"
# What a family needs besides.
SPECIAL: dict[str, dict[str, Any]] = {
    **_each({"num_key_value_heads": 4}, f"{LATENT} longcat_flash minicpm3 youtu dots3_note_text"),
    **_each({"rotary_dim": 8}, "codegen gptj"),
    **_each({"head_dim": 8}, "ministral hunyuan_v1_dense hunyuan_v1_moe"),
    "cohere_compass_text": {
        "layer_types": ["full_attention", "full_attention"],
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    "deepseek_v2": {"num_key_value_heads": 4, "num_experts_per_tok": 2},
    "dots1": {
        **{"n_shared_experts": 1, "n_routed_experts": 4, "num_local_experts": 4},
        "num_experts_per_tok": 2,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 7},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "xlm": {"n_words": 320},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
}


def tiny_config(family: str, **special: Any) -> PreTrainedConfig:
    """The default configuration of a family in two layers, or one layer of each type."""
    kind = type(AutoConfig.for_model(family))
    return _shrunk(kind, SPECIAL.get(family, {}) | special)


def _shrunk(kind: type[PreTrainedConfig], special: dict[str, Any]) -> PreTrainedConfig:
    whole = kind()
    values = whole.to_dict()
    changes: dict[str, Any] = {}
    for name in getattr(whole, "sub_configs", {}):
        part = getattr(whole, name, None)
        if isinstance(part, PreTrainedConfig):
            own = special if name in ("text_config", "decoder") else {}
            changes[name] = _shrunk(type(part), own).to_dict()
    for name, size in SIZES.items():
        value = values.get(name)
        absent = name not in values or (value is None and not name.endswith("token_id"))
        several = isinstance(value, list) and not isinstance(size, list)
        if not absent and not several and (name != "sliding_window" or value):
            changes[name] = size
    if types := values.get("layer_types"):
        kinds = list(dict.fromkeys(types))
        layers = max(2, len(kinds))
        changes |= {n: layers for n in ("num_hidden_layers", "num_layers") if n in values}
        changes["layer_types"] = (kinds * 2)[:layers]
    return kind(**(changes | special))


def tiny_family(family: str, **special: Any) -> PreTrainedModel:
    """A model of random float32 weights; wide ones, so that attention matters."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **special)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 and weight.std() < 0.05:
                weight.normal_(0, 0.25)
    return model


def write_family(folder: Path, family: str, **special: Any) -> Path:
    """A checkpoint of `tiny_family`, with a tokenizer, as `folder`."""
    tiny_family(family, **special).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
