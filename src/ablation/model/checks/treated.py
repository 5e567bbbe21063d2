"""What was taken away from a model: its mark in the configuration, which is saved with the model.

Weights alone do not say that positions or norms were removed, so transformers would load the model
as if nothing had been taken away. Therefore a marked model is loaded by `ablation.interventions`,
and `ablation.model.checkpoints.load` refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

MARK = "ablation_interventions"  # the key in config.json


class NotInForce(RuntimeError):
    """An intervention is named for a model, and the model computes as if it were not there."""


def marks(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """The interventions of a model, in their order: `settings` of each, and `before`.

    `before` holds what the model was before, as far as the audit has to compare with it.
    """
    return list(getattr(config, MARK, None) or [])


def mark(config: PreTrainedConfig, settings: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Add an intervention to the marks of a model."""
    setattr(config, MARK, [*marks(config), {"settings": dict(settings), "before": dict(before)}])


def unmark(config: PreTrainedConfig, settings: Mapping[str, Any]) -> None:
    """Remove an intervention from the marks of a model."""
    left = [entry for entry in marks(config) if entry["settings"] != settings]
    if left:
        setattr(config, MARK, left)
    else:
        delattr(config, MARK)
