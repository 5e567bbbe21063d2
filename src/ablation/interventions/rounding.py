"""The kind `round`: weights of the layers have few levels.

Sources: rounding to nearest with one scale for a group of weights, as Frantar et al. 2022, GPTQ
(arXiv:2210.17323), use for comparison; training with it by the straight-through gradient of Bengio
et al. 2013 (arXiv:1308.3432), as Liu et al. 2023, LLM-QAT (arXiv:2305.17888). A training keeps
float32 copies, takes their gradient at the rounded weights, and saves the rounded weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.config.interventions import Round
from ablation.interventions.anatomy import Matrix, NoSuchPart, matrices
from ablation.interventions.protocol import Intervention

# Mean distance of a weight from its nearest level, in steps between levels: 0.25 if it was never
# rounded. bfloat16 holds the levels inexactly, the more so the more there are.
MOST_OFF, EACH_LEVEL = 1e-4, 2**-10


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

        Scales have 8 significant bits, so that levels are exact and rounding twice changes nothing.
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
        """Every weight is on one of the levels of its group."""
        far: dict[str, float] = {}
        levels = 0
        for matrix in matrices(model):
            grouped, scale = self._grouped(matrix, held=True)
            steps = grouped / scale
            far[matrix.name] = float((steps - steps.round()).abs().mean())
            levels = max(levels, int(steps.round().abs().max()))
        name, off = max(far.items(), key=lambda found: found[1])
        inexact = 0 if model.dtype == torch.float32 else self._most * EACH_LEVEL
        limit = MOST_OFF + inexact
        if off > limit or levels > self._most:
            raise self.not_in_force(
                model,
                f"weights of {name} are {off:.3g} steps from their levels (at most {limit:.3g})",
            )
        return {"matrices": len(far), "mean_distance": off, "highest_level": levels}
