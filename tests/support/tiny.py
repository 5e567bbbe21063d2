"""Tiny models of random float32 weights, whose results can be compared exactly, and a tokenizer."""

from __future__ import annotations

import functools

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ablation.model.forward import target_logits
from ablation.model.packing import Rows

PLAIN_ROPE = {
    "rope_type": "default",
    "rope_theta": 10_000.0,
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 16,  # positions after 16 are scaled, so they must be right
}
ARCHITECTURES = {
    "ministral3": ("Ministral3", {"rope_parameters": PLAIN_ROPE}),
    "llama": ("Llama", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": 5}),  # every layer slides
    "qwen3_sliding": (  # the second of two layers slides: two masks, a dict
        "Qwen3",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "gemma2": ("Gemma2", {"sliding_window": 5, "final_logit_softcapping": 3.0}),
}


def tiny_model(
    architecture: str, vocabulary: int = 96, attention: str = "sdpa", tie: bool = True, **overrides
) -> PreTrainedModel:
    """Two layers of width 32 with four heads of 8; wide weights, so that attention matters."""
    name, special = ARCHITECTURES[architecture]
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.25,
        "tie_word_embeddings": tie,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attn_implementation": attention,
    }
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(settings | special | overrides))
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


@functools.cache
def _trained() -> str:
    text = [
        "The hawk chose Eve and the fox chose Ann.",
        "Then Tom gave the red key to Eve, because she asked.",
        "Question: who has the key?\nAnswer: Eve has it.",
        "naïve café — 12 + 34 = 46, said she.",
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer.to_str()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most 320 tokens, which puts BOS first as in the micro-world."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )


def ids(count: int, seed: int) -> list[int]:
    """Random token ids without special tokens."""
    return torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def logprobs(model: PreTrainedModel, rows: Rows, mask: str) -> torch.Tensor:
    """[targets]: the log-probability of each target, in nats."""
    picked = target_logits(model, rows, mask).log_softmax(-1)
    return picked.gather(1, rows.target_id[:, None])[:, 0]
