"""Evaluates one trained translator, with its controls, on the test questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ablation.bridge.evaluation.bridged_answers import generate_answers, translate
from ablation.bridge.evaluation.published_evaluator import leaky_answers, leaky_correct
from ablation.bridge.evaluation.sample_rows import sample_rows
from ablation.bridge.evaluation.section_meter import SectionMeter
from ablation.bridge.evaluation.soft_variants import soft_variants
from ablation.bridge.model.pair import FrozenModel
from ablation.bridge.model.splits import Split
from ablation.bridge.model.translator_layers import Translator
from ablation.config.bridge_blocks import Recipe
from ablation.vocabulary.bridge import DIFFUSION


def evaluate_cell(
    target: FrozenModel,
    translator: Translator,
    weights: Mapping[str, Mapping[str, Tensor]],
    recipe: Recipe,
    test: Split,
    train_activations: Sequence[Tensor],
    meter: SectionMeter | None = None,
) -> list[dict]:
    """Sample rows of all variants of a cell.

    `weights` has the `best` weights (those of the step with the best dev accuracy) and the `last`
    ones. Controls and quantization use the best weights. A diffusion translator is sampled with
    several noises. The audit scores the last weights with the published evaluator as well.
    """
    found: list[dict] = []
    meter, records = meter or SectionMeter(), test.records

    def add(soft: Tensor, arm: str, noise: int = 0) -> None:
        with meter.section(arm, len(records)):
            generated = generate_answers(target, records, soft, recipe)
        found.extend(sample_rows(generated, records, arm=arm, noise=noise))

    translator.load_state_dict(weights["last"])
    last = translate(translator, test.activations)
    add(last, "bridged_last")
    if recipe.audit:
        zeros = torch.zeros_like(last)
        found += _published_rows(target, records, last, recipe, "published_evaluator")
        named = "published_evaluator_zero_soft_tokens"
        found += _published_rows(target, records, zeros, recipe, named)
        add(zeros, "bridged_last_zero_soft_tokens")
    translator.load_state_dict(weights["best"])
    variants = soft_variants(translator, test.activations, train_activations, noise_seed=0)
    for arm in variants if recipe.controls else ("bridged",):
        add(variants[arm](), arm)
    if recipe.translator.kind == DIFFUSION:
        for noise in range(1, recipe.noise_seeds):
            add(translate(translator, test.activations, noise), "bridged", noise)
    return found


def _published_rows(
    target: FrozenModel, records: Sequence[Mapping], soft: Tensor, recipe: Recipe, arm: str
) -> list[dict]:
    """Sample rows as the published evaluator scores them."""
    generated = leaky_answers(target, records, soft, recipe)
    return [
        row | {"correct": int(leaky_correct(row["text"], records[row["item"]]["answer"]))}
        for row in sample_rows(generated, records, arm=arm, noise=0)
    ]
