"""Turns cached source activations into soft tokens, and soft tokens into answers of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ablation.bridge.data.prompts import Question
from ablation.bridge.evaluation.generate import Generated, generate
from ablation.bridge.evaluation.scores import score_answer
from ablation.bridge.model.pair import FrozenModel
from ablation.bridge.model.ragged import padded
from ablation.bridge.model.translator_layers import Translator
from ablation.config.bridge_blocks import Recipe


def generate_answers(
    target: FrozenModel, records: Sequence[Mapping], soft: Tensor, recipe: Recipe
) -> Generated:
    """The target's answers after soft tokens [questions, K, width].

    Of the records only the questions are read, never the gold answers.
    """
    k = soft.shape[1]
    rows = [target.encoder.bridged_row(k, recipe.mode, Question.of(r)) for r in records]
    return generate(
        target,
        rows,
        soft,
        mode=recipe.mode,
        max_new_tokens=recipe.max_new_tokens,
        batch_size=recipe.eval_batch,
    )


def answer_quality(generated: Generated, records: Sequence[Mapping]) -> dict[str, float]:
    """Accuracy and F1, and counts that reveal a collapse of the answers.

    The counts are those of different, empty and invalid answers and of texts without EOS.
    """
    scores = [score_answer(t, record) for t, record in zip(generated.texts, records, strict=True)]
    return {
        "accuracy": sum(score.correct for score in scores) / len(scores),
        "f1": sum(score.f1 for score in scores) / len(scores),
        "unique": len({score.answer for score in scores}),
        "empty": sum(not text.strip() for text in generated.texts),
        "invalid": sum(score.answer is None for score in scores),
        "unended": generated.ended.count(False),
    }


@torch.no_grad()
def translate(
    translator: Translator, activations: Sequence[Tensor], noise_seed: int = 0, batch_size: int = 64
) -> Tensor:
    """Soft tokens [questions, K, width] of source activations, in evaluation mode.

    The mode of the translator is restored afterwards. `noise_seed` fixes the noise of a diffusion,
    so that greedy decoding gives the same text again.
    """
    device, was_training = translator.device, translator.training
    translator.eval()
    found, generator = [], torch.Generator().manual_seed(noise_seed)
    try:
        for start in range(0, len(activations), batch_size):
            rows, mask = padded(activations[start : start + batch_size])
            soft = translator(rows.to(device).float(), mask.to(device), generator=generator)
            found.append(soft.tokens)
    finally:
        translator.train(was_training)
    return torch.cat(found)
