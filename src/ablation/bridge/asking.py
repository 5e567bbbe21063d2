"""Soft tokens from cached states, and what the target says after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.bridge.batches import Words
from ablation.bridge.cache import padded
from ablation.bridge.generate import Generated, generate
from ablation.bridge.scoring import score
from ablation.bridge.translator import Translator


def answers(
    target: PreTrainedModel,
    words: Words,
    records: Sequence[Mapping],
    soft: Tensor,
    recipe: Mapping,
    k: int,
) -> Generated:
    """What the target says after soft tokens; the records' gold answers are not looked at."""
    rows = [words.bridged(k, recipe["mode"], r["question"]) for r in records]
    return generate(
        target,
        words,
        rows,
        soft,
        mode=recipe["mode"],
        max_new_tokens=recipe["max_new_tokens"],
        batch_size=recipe["eval_batch"],
    )


def quality(said: Generated, records: Sequence[Mapping]) -> dict[str, float]:
    """Accuracy and F1, and what shows a collapse: different, empty, invalid, unended answers."""
    found = [score(text, record) for text, record in zip(said.texts, records, strict=True)]
    return {
        "accuracy": sum(f.correct for f in found) / len(found),
        "f1": sum(f.f1 for f in found) / len(found),
        "unique": len({f.answer for f in found}),
        "empty": sum(not text.strip() for text in said.texts),
        "invalid": sum(f.answer is None for f in found),
        "unended": said.ended.count(False),
    }


@torch.no_grad()
def translate(
    translator: Translator, states: Sequence[Tensor], noise_seed: int = 0, batch_size: int = 64
) -> Tensor:
    """Soft tokens [rows, K, width] in evaluation mode, which is undone after.

    `noise_seed` fixes what a diffusion starts from, so that greedy decoding repeats itself.
    """
    device, was_training = translator.device, translator.training
    translator.eval()
    found, generator = [], torch.Generator().manual_seed(noise_seed)
    try:
        for start in range(0, len(states), batch_size):
            rows, mask = padded(states[start : start + batch_size])
            soft = translator(rows.to(device).float(), mask.to(device), generator=generator)
            found.append(soft.tokens)
    finally:
        translator.train(was_training)
    return torch.cat(found)
