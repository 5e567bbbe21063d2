"""Makes interventions from their settings: those of this package, and of other distributions."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ablation.config.interventions import (
    UNUSABLE,
    InterventionSettings,
    distribution_of,
    read_settings,
)
from ablation.interventions.protocol import Intervention


def make(name: str, values: Mapping[str, Any]) -> Intervention:
    """The intervention `name` of a study, with the settings of its kind.

    The module of a kind is imported here and nowhere else, so that a change of one kind makes
    stale only the jobs whose fingerprints name it. Raises ValueError for a kind of another
    distribution that cannot be used.
    """
    if why := UNUSABLE.get(str(values.get("kind"))):
        raise ValueError(f"{name}: {why}")
    settings = read_settings(values)
    return _implementation(name, settings)(name, settings)


def _implementation(name: str, settings: InterventionSettings) -> type[Intervention]:
    module, _, found = settings.implementation.partition(":")
    by = f"kind {settings.kind!r}, of {distribution_of(settings.model_dump()) or 'this project'}"
    where = f"{name}: the implementation {settings.implementation} of {by}, cannot be used"
    try:
        kind = getattr(import_module(module), found)
    except Exception as error:  # whatever a module of others raises when it is imported
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Intervention)):
        raise ValueError(f"{where}: it is {kind!r}, and no subclass of {Intervention.__module__}")
    for method in ("take_away", "audit"):
        if getattr(kind, method) is getattr(Intervention, method):
            raise ValueError(f"{where}: {kind.__name__} has no `{method}`")
    return kind


def of_job(config: Mapping[str, Any]) -> Intervention | None:
    """The intervention that a job's part of the configuration names, beside its masks, or None."""
    values = config.get("intervention")
    return make(str(config["condition"]), values) if values else None
