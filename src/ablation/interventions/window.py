"""The kind `window`: a token sees only tokens nearby, in the prompt or everywhere.

Source: Yu et al. 2025, "SWAA: Sliding Window Attention Adaptation" (arXiv:2512.10411), which puts a
window over the prefill of a finished model of full attention, with full attention while decoding
("FA decode"), and finetunes it; the window everywhere is that of Beltagy et al. 2020, Longformer
(arXiv:2004.05150).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ablation.config.interventions import Window
from ablation.interventions.anatomy import called, first_tensor, layers_of, probe
from ablation.interventions.protocol import Intervention
from ablation.model.masks import TakenWindow, forward_inputs, take_window

ROUNDING = 1e-5  # of the movement of the changed token: smaller movements are rounding


class SlidingWindow(Intervention):
    """Narrows every mask of a model (`ablation.model.masks.take_window`)."""

    settings: Window

    def take_away(self, model: PreTrainedModel) -> dict[str, Any]:
        self.restore(model)
        return {}

    def restore(self, model: PreTrainedModel) -> None:
        take_window(model, TakenWindow(self.settings.tokens, self.settings.when))

    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """In each layer, a change of the first token moves what tokens within the window compute.

        It must move no token of the prompt beyond the window, and a token of the continuation
        beyond it only if the window is on the prefill alone.
        """
        tokens = self.settings.tokens
        rows = probe(model, prompt=tokens + 1, continuation=2)
        moved: list[tuple[float, float, float]] = []  # of each layer: within, beyond, continuation

        def seen(number: int, layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            other = states.clone()
            other[..., 0, :] += states.std() * torch.randn(
                states.shape[-1], generator=torch.Generator().manual_seed(0)
            ).to(states)
            again = layer.forward(
                *((other, *args[1:]) if args else ()),
                **(kwargs if args else {**kwargs, "hidden_states": other}),
            )
            # Some layers compute several streams of hidden states, [streams, 1, tokens, width].
            difference = (first_tensor(again) - first_tensor(output)).abs().amax(-1)
            moved.append(_movements(difference.flatten(0, -2).amax(0), tokens))

        def run() -> None:
            model(**forward_inputs(model, self.mask, rows))

        if not called(model, layers_of(model), seen, run):
            raise self.not_in_force(model, "a forward called none of its layers")
        found = torch.tensor(moved)
        within, beyond, continuation = (float(column.max()) for column in found.T)
        evidence = {
            "layers": len(moved),
            "moved_within_window": within,
            "moved_beyond_window": beyond,
            "moved_in_continuation": continuation,
        }
        sees_all = self.settings.when == "prefill"
        reached = (found[:, 1] > ROUNDING * found[:, 0]).any()
        if reached:
            raise self.not_in_force(
                model, f"a prompt token beyond the window of {tokens} tokens moved by {beyond:.3g}"
            )
        if (continuation > ROUNDING * within) != sees_all:
            raise self.not_in_force(
                model,
                f"a token of the continuation moved by {continuation:.3g} after a change beyond "
                f"the window, which is {self.settings.when}",
            )
        return evidence


def _movements(difference: Tensor, tokens: int) -> tuple[float, float, float]:
    """The largest difference within the window, beyond it in the prompt, and behind the prompt."""
    beyond, continuation = difference[tokens], difference[tokens + 1 : tokens + 3]
    return float(difference[:tokens].max()), float(beyond), float(continuation.max())
