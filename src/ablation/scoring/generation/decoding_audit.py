"""Compares decoding from slots with one forward of the same rows, on the real model.

The rows of a scored continuation say what a generated token sees: the whole prompt as the mask has
it, then all tokens before it. A KV cache that a class uses in another way, or an intervention that
holds in a forward of rows alone, would generate something else without an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ablation.model.checks.agreement import FORWARD_ERRORS, LONGEST_WINDOW, TOLERANCE
from ablation.model.checks.treated import NotInForce
from ablation.model.forward import target_logits
from ablation.model.masks import taken_window
from ablation.model.packing import Example, pack
from ablation.model.positions import most_positions, switch_position, widest_row, windows
from ablation.scoring.generation.greedy import GreedyDecoder

SHORT, NEW = 5, 6  # tokens of the shorter prompt, and of each continuation


class CannotGenerate(NotInForce):
    """No text of the model would be the one that its mask and interventions give."""


class _Recording(GreedyDecoder):
    """Keeps the logits that tokens are chosen by."""

    def __init__(self, model: PreTrainedModel, mask: str) -> None:
        super().__init__(model, mask, slots=2)
        self.logits: list[Tensor] = []

    def choose(self, logits: Tensor) -> Tensor:
        self.logits.append(logits.float().clone())  # a captured step overwrites its own
        return super().choose(logits)


@torch.no_grad()
def decoding_audit(model: PreTrainedModel, mask: str) -> dict[str, Any]:
    """The largest difference of a log-probability between decoded and scored tokens, with facts.

    Two random prompts share the slots; one of them is longer than every window of at most
    LONGEST_WINDOW tokens. In float32 the largest difference counts, else the median one, as in
    `ablation.model.checks.agreement`. Raises CannotGenerate, which names the model and its cache.
    """
    config = model.config.get_text_config()
    taken = taken_window(model)
    reaches = [*windows(config).values(), taken.tokens if taken else 0]
    reach = max(tokens for tokens in [0, *reaches] if tokens <= LONGEST_WINDOW)
    longest = longest_text(model) or 10**6
    generator = torch.Generator().manual_seed(0)
    lengths = min(max(reach, SHORT) + SHORT, longest - NEW), SHORT
    prompts = [
        torch.randint(3, config.vocab_size, (length,), generator=generator).tolist()
        for length in lengths
    ]
    decoder = _Recording(model, mask)
    try:
        generated = decoder.run(prompts, NEW, lambda tokens: False)
    except torch.OutOfMemoryError:
        raise
    except FORWARD_ERRORS as error:
        text = str(error).splitlines()[0] if str(error) else "no message"
        raise CannotGenerate(
            f"{_named(model)}: no token can be decoded from slots of a KV cache "
            f"({type(error).__name__}: {text}). Take the generation tasks out of evaluation.tasks"
        ) from error
    differences = []
    for row, (prompt, new) in enumerate(zip(prompts, generated, strict=True)):
        rows = pack([Example(prompt, [new.tokens])], capacity=10**6, keep_last=False)
        expected = target_logits(model, rows.to(model.device), mask).float().log_softmax(-1)
        found = torch.stack([logits[row] for logits in decoder.logits]).log_softmax(-1)
        differences.append((found - expected).abs().flatten())
    every = torch.cat(differences)
    difference = float(every.max() if model.dtype == torch.float32 else every.median())
    largest = max(float(logits.abs().max()) for logits in decoder.logits)
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16]) * max(1.0, largest)
    if not difference <= tolerance:
        raise CannotGenerate(
            f"{_named(model)}: under {mask!r}, tokens decoded from its KV cache have other logits "
            f"than the same tokens in one forward, by {difference:.3g} (tolerance "
            f"{tolerance:.3g}). Nothing was generated. Take the generation tasks out of "
            "evaluation.tasks"
        )
    return {"difference": difference, "tolerance": tolerance, "tokens": lengths[0] + NEW}


def longest_text(model: PreTrainedModel) -> int | None:
    """The most tokens of prompt and continuation that are decoded as one forward computes them.

    None if there is no limit. Beyond the switch of a longrope model's rotary factors, cached keys
    would have others than later ones.
    """
    limits = (most_positions(model.config), widest_row(model), switch_position(model.config))
    return min((limit for limit in limits if limit is not None), default=None)


def _named(model: PreTrainedModel) -> str:
    """The class of a model, and those of the layers of the cache that transformers makes for it."""
    try:
        layers = DynamicCache(config=model.config).layers
    except FORWARD_ERRORS as error:
        return f"{type(model).__name__} (no DynamicCache: {type(error).__name__})"
    kinds = sorted({type(layer).__name__ for layer in layers})
    return f"{type(model).__name__} (cache of {', '.join(kinds)})"
