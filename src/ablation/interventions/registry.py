"""Makes interventions from their settings: those of this package, and of other distributions."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ablation.config.interventions import read_settings
from ablation.interventions.protocol import Intervention


def make(name: str, values: Mapping[str, Any]) -> Intervention:
    """The intervention `name` of a study, with the settings of its kind.

    The module of a kind is imported here and nowhere else, so that a change of one kind makes
    stale only the jobs whose fingerprints name it.
    """
    settings = read_settings(values)
    module, _, kind = settings.implementation.partition(":")
    return getattr(import_module(module), kind)(name, settings)


def of_job(config: Mapping[str, Any]) -> Intervention | None:
    """The intervention that a job's part of the configuration names, beside its masks, or None."""
    values = config.get("intervention")
    return make(str(config["condition"]), values) if values else None
