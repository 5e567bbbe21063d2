"""The names of the attention masks, and how reports treat each mask.

A mask determines which tokens each token may attend to. `ablation.model.masks` computes the masks;
a new mask needs an entry there and here. This module does not import torch.

Decoder models are trained under CAUSAL. Scores under it give the baseline and the side effect of a
finetuning; all other masks are ablations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mask:
    """The properties of a mask that do not depend on how it is computed.

    bidirectional_prompt: whether a prompt token attends to later prompt tokens too.
    prompt_sees_response: whether prompt tokens attend to the continuation, so that two
        continuations cannot share one copy of their prompt.
    leaks: whether a token can attend to its own target. Scores under such a mask measure how much
        of the answer is visible, not what the model can do.
    sampled: whether the report shows continuations that were generated under the mask.
    """

    name: str
    bidirectional_prompt: bool = False
    prompt_sees_response: bool = False
    leaks: bool = False
    sampled: bool = True


_TABLE = (
    Mask("causal"),
    Mask("prefill_bidir", bidirectional_prompt=True),
    Mask(
        "full_bidir",
        bidirectional_prompt=True,
        prompt_sees_response=True,
        leaks=True,
        sampled=False,
    ),
)
CAUSAL = "causal"
MASK = {mask.name: mask for mask in _TABLE}
MASKS = tuple(MASK)
ABLATED_MASKS = tuple(name for name in MASKS if name != CAUSAL)


def in_order(conditions: Iterable[str]) -> list[str]:
    """Conditions each once: the masks in their order, then interventions by name."""
    known = set(conditions)
    return [*(mask for mask in MASKS if mask in known), *sorted(known - set(MASKS))]


SAMPLED_MASKS = tuple(mask.name for mask in _TABLE if mask.sampled)
LEAKING_MASKS = tuple(mask.name for mask in _TABLE if mask.leaks)
