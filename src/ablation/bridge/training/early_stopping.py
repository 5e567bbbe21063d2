"""When the training of a translator ends before its last step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablation.config.bridge_blocks import Recipe
from ablation.training.early_stopping import Stops


class DevStops(Stops):
    """Stops on training loss and dev loss. The mask of a translator's training cannot leak, so
    there are no probe samples."""

    @classmethod
    def of(cls, recipe: Recipe) -> DevStops:
        """The stops of a recipe, which have no rule for leaks."""
        return cls(recipe.stops.no_learning, recipe.stops.plateau)

    def observe(self, entry: Mapping[str, Any]) -> str | None:
        """The reason to stop after one entry of the Trainer's log, or None."""
        reason = self.reason
        if "loss" in entry:
            reason = reason or self.after_loss(entry["step"], entry["loss"], entry.get("grad_norm"))
        if "eval_loss" in entry:
            reason = reason or self.after_evaluation(entry["step"], entry["eval_loss"])
        self.reason = reason
        return reason
