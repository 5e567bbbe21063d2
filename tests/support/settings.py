"""Settings of tables, for tests that compute them from conditions."""

from __future__ import annotations

from ablation.analysis.published import PublishedSettings
from ablation.analysis.recovery_columns import RecoverySettings

CRITERIA = {"retention": 0.8, "gain": 0.05}


def recovery_settings(study: str = "t", **changes: object) -> RecoverySettings:
    """The settings of a recovery table under `acc`, with `changes`."""
    known = {"study": study, "metric": "acc", "statistics": {"confidence": 0.95}}
    return RecoverySettings.model_validate(known | {"criteria": CRITERIA} | changes)


def published_settings(named: dict) -> PublishedSettings:
    """The settings of published.csv for a study with the model and metric in `named`."""
    return PublishedSettings.model_validate({"named": named, "criteria": CRITERIA})
