"""The kind `round`: weights of the layers have few levels.

The levels are symmetric and equally far from each other, from minus to plus the largest weight of a
group of weights of one output, and each weight takes the nearest. Source of groups with a scale
each: Dettmers and Zettlemoyer 2023, "The case for 4-bit Precision" (arXiv:2212.09720). A training
keeps float32 copies of the weights and steps them by the gradient at the rounded weights, as
Courbariaux et al. 2015, BinaryConnect (arXiv:1511.00363), the straight-through gradient of Bengio
et al. 2013 (arXiv:1308.3432). It saves the rounded weights. Activations are not rounded.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.config.interventions import Round
from ablation.interventions.anatomy import Matrix, NoSuchPart, matrices
from ablation.interventions.protocol import Intervention

# Largest distance of a weight from its nearest level, in steps between levels. bfloat16 has 8
# significant bits, so there weight and scale may be off by this share of the level too.
MOST_OFF, INEXACT = 1e-4, 2**-6


class RoundedWeights(Intervention):
    """Rounds every matrix of the layers; embeddings, head, norms and biases are left alone."""

    settings: Round
    masters: ClassVar[bool] = True

    def take_away(self, model: PreTrainedModel) -> dict[str, Any]:
        self.constrain(model)
        return {}

    @torch.no_grad()
    def constrain(self, model: PreTrainedModel) -> None:
        for matrix in matrices(model):
            grouped, scale = self._grouped(matrix)
            levels = (grouped / scale).round().clamp(-self._most, self._most)
            matrix.values.copy_((levels * scale).reshape(matrix.values.shape))

    @property
    def _most(self) -> int:
        return 2 ** (self.settings.bits - 1) - 1

    def _grouped(self, matrix: Matrix, held: bool = False) -> tuple[Tensor, Tensor]:
        """Weights [..., groups, weights] in float32, and the scale of each group.

        Scales have 8 significant bits, so that in float32 levels are exact and rounding twice
        changes nothing.
        They are cut to them, so that the largest weight is on the highest level. With `held`, the
        weights are on levels already, of the nearest scale.
        """
        values = matrix.values.float()
        group = self.settings.group or values.shape[-1]
        if values.shape[-1] % group:
            raise NoSuchPart(f"{matrix.name}: groups of {group} do not divide {values.shape[-1]}")
        grouped = values.unflatten(-1, (-1, group))
        scale = grouped.abs().amax(-1, keepdim=True) / self._most
        half = 2**15 if held else 0
        cut = ((scale.contiguous().view(torch.int32) + half) & -(2**16)).view(torch.float32)
        return grouped, torch.where(cut > 0, cut, 1.0)

    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """Every weight is on one of the levels of its group, as exactly as its dtype holds it.

        A weight of bfloat16 is less exact in float32 too, in which a checkpoint may be loaded.
        """
        highest = farthest = 0.0
        matrices_of_model = matrices(model)
        for matrix in matrices_of_model:
            grouped, scale = self._grouped(matrix, held=True)
            steps = grouped / scale
            level = steps.round()
            off = (steps - level).abs()
            short = torch.equal(grouped, grouped.bfloat16().float())
            outside = float((off > MOST_OFF + short * INEXACT * level.abs()).float().mean())
            if outside > 0:
                raise self.not_in_force(
                    model, f"{outside:.2%} of the weights of {matrix.name} are not on their levels"
                )
            highest = max(highest, float(level.abs().max()))
            farthest = max(farthest, float(off.max()))
        return {
            "matrices": len(matrices_of_model),
            "largest_distance": farthest,
            "highest_level": int(highest),
        }
