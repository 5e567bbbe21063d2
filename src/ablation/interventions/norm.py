"""The kind `norm`: the norms of layers are removed.

Source: Baroni et al. 2025, "Transformers Don't Need LayerNorm at Inference Time"
(arXiv:2507.02559), after Heimersheim 2024 (arXiv:2409.13710): a norm divides by a constant in place
of the size of its input. The constant is folded into the norm's own weight, which is exact, so that
the removed norm is a multiplication by its weight (and an addition of its bias).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ablation.config.interventions import Norm
from ablation.interventions.anatomy import NoSuchPart, called, first_tensor, layers_of, norms, probe
from ablation.interventions.protocol import Intervention
from ablation.model.masks import forward_inputs

TOKENS = 64  # random tokens, of which the constants are the median
DOUBLED = 0.01  # share by which the doubled input may miss the doubled output


class FixedNorm(nn.Module):
    """What is left of a norm: its weight times the input, centred if the norm centred, plus bias.

    Its parameters have the names of those of the norm, so that they are saved and loaded as them.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, centred: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.centred = weight, bias, centred

    def forward(self, states: Tensor) -> Tensor:
        if self.centred:
            states = states - states.mean(-1, keepdim=True)
        scaled = self.weight * states
        return scaled if self.bias is None else scaled + self.bias


class Place(NamedTuple):
    """Where a norm stands in the model."""

    parent: nn.Module
    name: str
    norm: nn.Module


class RemovedNorms(Intervention):
    """Replaces each norm of the residual stream in the layers by a `FixedNorm`."""

    settings: Norm

    @torch.no_grad()
    def take_away(self, model: PreTrainedModel) -> dict[str, Any]:
        places = self._places(model)
        if not places:
            raise NoSuchPart(
                f"{type(model).__name__}: no norms of the residual stream in the layers"
            )
        sizes: dict[int, float] = {}

        def seen(number: int, norm: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            states = first_tensor(args or tuple(kwargs.values())).float()
            if _centres(norm):
                states = states - states.mean(-1, keepdim=True)
            sizes[number] = float(states.square().mean(-1).sqrt().median())

        called(model, [place.norm for place in places], seen, lambda: _run(model, self.mask))
        if len(sizes) < len(places):
            raise NoSuchPart(f"{type(model).__name__}: a forward does not call all of its norms")
        for number, place in enumerate(places):
            weight: Any = place.norm.weight
            centred = _centres(place.norm)
            weight.data.copy_(_factor(place.norm) / sizes[number])
            self._replace(place, centred)
        return {"norms": len(places)}

    def restore(self, model: PreTrainedModel) -> None:
        for place in self._places(model):
            if not isinstance(place.norm, FixedNorm):
                self._replace(place, _centres(place.norm))

    def _places(self, model: PreTrainedModel) -> list[Place]:
        layers = layers_of(model)
        width = model.config.get_text_config().hidden_size
        chosen = range(len(layers)) if self.settings.layers is None else self.settings.layers
        return [Place(*found) for n in chosen for found in norms(layers[n], width)]

    @staticmethod
    def _replace(place: Place, centred: bool) -> None:
        weight: Any = place.norm.weight
        fixed = FixedNorm(weight, getattr(place.norm, "bias", None), centred)
        setattr(place.parent, place.name, fixed.train(place.norm.training))

    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """In a forward, twice the input of each removed norm gives twice its output."""
        ratios: list[float] = []

        def seen(number: int, norm: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            states = first_tensor(args or tuple(kwargs.values()))
            zero = norm.forward(torch.zeros_like(states))
            once, twice = output - zero, norm.forward(2 * states) - zero
            ratios.append(float(twice.norm() / once.norm().clamp_min(1e-30)))

        places = self._places(model)
        called(model, [place.norm for place in places], seen, lambda: _run(model, self.mask))
        worst = min(ratios, default=0.0)
        if abs(worst - 2) > 2 * DOUBLED:
            raise self.not_in_force(
                model, f"twice the input of a norm gave {worst:.3f} times its output, not twice"
            )
        return {"norms": len(ratios), "doubling_gives": worst}


def _run(model: PreTrainedModel, mask: str) -> None:
    model(**forward_inputs(model, mask, probe(model, prompt=TOKENS - 2)))


def _some_states(norm: nn.Module) -> Tensor:
    weight: Any = norm.weight
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, weight.shape[0], generator=generator).to(weight)


def _centres(norm: nn.Module) -> bool:
    """Whether a norm subtracts the mean, as LayerNorm does and RMSNorm does not."""
    states = _some_states(norm)
    output = norm.forward(states) - norm.forward(torch.zeros_like(states))
    moved = norm.forward(states + states.abs().max()) - norm.forward(states)
    return bool(moved.norm() < 0.2 * output.norm())


def _factor(norm: nn.Module) -> Tensor:
    """The vector by which a norm multiplies an input of size 1, whatever its class makes of it."""
    weight: Any = norm.weight
    states = _some_states(norm).float()
    states = states - states.mean(-1, keepdim=True)
    states = states / states.square().mean(-1, keepdim=True).sqrt()
    zero = norm.forward(torch.zeros_like(states).to(weight)).float()
    output = norm.forward(states.to(weight)).float() - zero
    return (output * states).sum(0) / states.square().sum(0)
