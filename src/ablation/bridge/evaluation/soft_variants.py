"""Variants of the soft tokens of a translator: controls that remove the source, and rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import torch
from torch import Tensor

from ablation.bridge.evaluation.bridged_answers import translate
from ablation.bridge.model.translator_layers import Translator
from ablation.vocabulary.bridge import QUANTIZED_BITS


def shuffled_order(count: int) -> list[int]:
    """A fixed order of `count` questions in which no question keeps its own source."""
    order = list(range(count))
    Random("shuffled source").shuffle(order)
    return [order[(order.index(i) + 1) % count] for i in range(count)]


def quantize(soft: Tensor, bits: int) -> Tensor:
    """Soft tokens rounded to `bits` bits; each token has its own scale.

    The largest number of a token becomes 2^(bits - 1) - 1 steps.
    """
    top = 2 ** (bits - 1) - 1
    scale = soft.abs().amax(-1, keepdim=True).clamp_min(1e-12) / top
    return (soft / scale).round().clamp(-top, top) * scale


def soft_variants(
    translator: Translator, test: Sequence[Tensor], train: Sequence[Tensor], noise_seed: int
) -> dict[str, Callable[[], Tensor]]:
    """{variant: a function that makes its soft tokens [questions, K, width]}.

    `test` and `train` are source activations of questions; `train` gives the mean soft tokens.
    """
    own = translate(translator, test, noise_seed)

    def mean() -> Tensor:
        soft = translate(translator, train, noise_seed)
        return soft.mean(0, keepdim=True).expand_as(own)

    return {
        "bridged": lambda: own,
        "shuffled_source": lambda: own[torch.tensor(shuffled_order(len(own)), device=own.device)],
        "zero_soft_tokens": lambda: torch.zeros_like(own),
        "mean_soft_tokens": mean,
        "float16": lambda: own.half().float(),
        **{name: partial(quantize, own, bits) for name, bits in QUANTIZED_BITS.items()},
    }
