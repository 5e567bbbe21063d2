"""The two models of the micro bridge from nothing: a source and a target that share no shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ablation.bridge.world.questions import TEXTS, Numbers
from ablation.models import target_logits
from ablation.packing import Example, Rows, pack
from ablation.progress import Progress
from ablation.world.optimizers import Optimizers
from ablation.world.tokenizer import train_tokenizer


def pretrain(
    world: Mapping, role: str, recipe: Mapping, out_folder: str | Path, device: str = "cpu"
) -> dict:
    """Make the `role` (source or target) of `world` by `recipe` in `out_folder`.

    Writes model (safetensors) and tokenizer; returns {steps, final_loss (nats a token, mean of the
    last 50 steps), parameters, tokens}. Equal for equal input on one kind of processor.
    """
    torch.set_num_threads(recipe["threads"])
    torch.manual_seed(recipe["seed"])
    numbers = Numbers(world)
    sample = TEXTS[role](numbers, Random(f"tokenizer {role} {recipe['seed']}"))
    tokenizer = train_tokenizer(
        ["".join(next(sample)) for _ in range(recipe["tokenizer_documents"])], recipe["vocabulary"]
    )
    model = build_model(len(tokenizer), recipe["model"]).to(device)
    optimizers = Optimizers(model, recipe["lr_muon"], recipe["lr_adamw"])
    batches = _batches(TEXTS[role](numbers, Random(f"{role} {recipe['seed']}")), tokenizer, recipe)
    losses: list[float] = []
    bar = Progress(f"pretraining the {role}", recipe["steps"])
    for step in range(recipe["steps"]):
        rows = next(batches).to(device)
        loss = cross_entropy(target_logits(model, rows, "causal"), rows.target_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["max_grad_norm"])
        optimizers.step(_rate(step, recipe))
        losses.append(loss.item())
        bar.update(step + 1, f"loss {sum(losses[-20:]) / len(losses[-20:]):.3f}")
    model.save_pretrained(out_folder)
    tokenizer.save_pretrained(out_folder)
    last = losses[-50:]
    return {
        "steps": recipe["steps"],
        "final_loss": round(sum(last) / len(last), 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": len(tokenizer),
    }


def build_model(vocabulary: int, size: Mapping) -> LlamaForCausalLM:
    """A Llama decoder with random float32 weights and grouped key/value heads."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size["width"],
        intermediate_size=size["feed_forward"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["key_value_heads"],
        head_dim=size["head_dim"],
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).float()
    scale = size["embedding_std"] / config.initializer_range  # as ablation.world.pretrain, and why
    model.get_input_embeddings().weight.data.mul_(scale)
    return model


def _batches(
    texts: Iterator[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, recipe: Mapping
) -> Iterator[Rows]:
    while True:
        pairs = [next(texts) for _ in range(recipe["batch_documents"])]
        read = tokenizer([one for one, _ in pairs])["input_ids"]
        learned = tokenizer([one for _, one in pairs], add_special_tokens=False)["input_ids"]
        examples = [
            Example(one, [[*other, tokenizer.eos_token_id]])
            for one, other in zip(read, learned, strict=True)
        ]
        yield pack(examples, recipe["row_tokens"])


def _rate(step: int, recipe: Mapping) -> float:
    left = (recipe["steps"] - step) / recipe["cooldown_steps"]
    return min(1.0, (step + 1) / recipe["warmup_steps"], left)
