"""Refuses model families that mix tokens in ways that no attention mask controls."""

from __future__ import annotations

from transformers import PreTrainedConfig

from ablation.config.architectures import refusal


class UnsupportedArchitecture(ValueError):
    """The model mixes tokens outside masked attention, so no mask can ablate it."""


def refuse_unsupported(config: PreTrainedConfig) -> None:
    """Raise UnsupportedArchitecture, with the model type and the reason, if no mask can be set.

    Families are recognized by their names and by the settings in their configurations, as when a
    study is loaded. `ablation.model.checks.agreement` and `ablation.model.leak_audit` find all
    others on the model itself.
    """
    if message := refusal(config.to_dict()):
        raise UnsupportedArchitecture(message)
