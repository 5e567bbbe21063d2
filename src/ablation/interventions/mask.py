"""The kind `mask`: the attention of a prompt is bidirectional, as if its causal mask were removed.

Every study has these interventions, without naming them (`ablation.vocabulary.masks`). Source: the
prefix LM of Raffel et al. 2020 (arXiv:1910.10683), and the published study of this project, which
removes the causal mask of a finished decoder during prefill (docs/masks.md).
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from ablation.model.leak_audit import leak_audit


class Mask:
    """A mask by its name. It is handed over with every row, so nothing is applied to the model."""

    masters, liftable = False, True

    def __init__(self, name: str) -> None:
        self.name = self.mask = name

    def apply(self, model: PreTrainedModel) -> None:
        """Masks are handed over with each row."""

    def constrain(self, model: PreTrainedModel) -> None:
        """Every weight is free."""

    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """The leak audit of the mask. Raises MaskNotObeyed, a NotInForce."""
        return leak_audit(model, self.mask).as_dict()
