"""The kind `heads`: attention heads are removed.

Source: Michel et al. 2019, "Are Sixteen Heads Really Better than One?" (arXiv:1905.10650), which
multiplies the output of a head by 0. Here the weights that carry it into the residual stream are 0,
so that saved weights hold the intervention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ablation.config.interventions import Heads
from ablation.interventions.anatomy import (
    NoSuchPart,
    attention_output,
    called,
    inputs_first,
    layers_of,
    probe,
)
from ablation.interventions.protocol import Intervention
from ablation.model.masks import forward_inputs


class RemovedHeads(Intervention):
    """Zeroes the inputs of the output projection that come from the heads."""

    settings: Heads

    def take_away(self, model: PreTrainedModel) -> dict[str, Any]:
        self.constrain(model)
        return {}

    @torch.no_grad()
    def constrain(self, model: PreTrainedModel) -> None:
        layers = layers_of(model)
        for layer, head in self.settings.heads:
            output = attention_output(layers[layer])
            _slice(output, head, _heads(model)).zero_()

    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """Noise in what the removed heads compute moves nothing; in other heads it moves much."""
        layers, heads = layers_of(model), _heads(model)
        removed: dict[int, list[int]] = {}
        for layer, head in self.settings.heads:
            removed.setdefault(layer, []).append(head)
        numbers = list(removed)
        moved: list[float] = []
        others: list[float] = []

        def seen(number: int, output: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
            for head in range(heads):
                noisy = args[0].clone()
                width = noisy.shape[-1] // heads
                noisy[..., head * width : (head + 1) * width] += 1 + args[0].abs().max()
                difference = float((output.forward(noisy) - output.forward(args[0])).abs().max())
                (moved if head in removed[numbers[number]] else others).append(difference)

        def run() -> None:
            model(**forward_inputs(model, self.mask, probe(model, prompt=4)))

        called(model, [attention_output(layers[n]) for n in numbers], seen, run)
        if not moved:
            raise self.not_in_force(model, "a forward called none of its attentions")
        if max(moved) > 0:
            raise self.not_in_force(
                model, f"noise in its heads moved the residual stream by {max(moved):.3g}"
            )
        return {
            "heads": len(moved),
            "moved": max(moved),
            "moved_by_others": max(others, default=0.0),
        }


def _heads(model: PreTrainedModel) -> int:
    return model.config.get_text_config().num_attention_heads


def _slice(output: nn.Module, head: int, heads: int) -> Tensor:
    """The weights of an output projection that read one head, as a view."""
    weight: Any = output.weight
    by_input = weight.data if inputs_first(output) else weight.data.T
    width, rest = divmod(by_input.shape[0], heads)
    if rest:
        raise NoSuchPart(f"{by_input.shape[0]} inputs of an attention's output for {heads} heads")
    return by_input[head * width : (head + 1) * width]
