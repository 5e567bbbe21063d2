"""Settings of tables, for tests that compute them from conditions."""

from __future__ import annotations

import json
from pathlib import Path

from ablation.analysis.published import PublishedSettings
from ablation.analysis.recovery_columns import RecoverySettings
from ablation.vocabulary.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = json.loads((ROOT / "resources/published/prefill.json").read_text("utf-8"))
CRITERIA = {"retention": 0.8, "gain": 0.05}


def recovery_settings(study: str = "t", **changes: object) -> RecoverySettings:
    """The settings of a recovery table under `acc`, with `changes`."""
    known = {"study": study, "metric": "acc", "statistics": {"confidence": 0.95}}
    return RecoverySettings.model_validate(known | {"criteria": CRITERIA} | changes)


def published_settings(named: dict, **trained: object) -> PublishedSettings:
    """The settings of published.csv for a study with the model and metric in `named`.

    Each recipe is trained as published, but for the keys in `trained`.
    """
    trainings = {recipe: published_training(recipe) | trained for recipe in RECIPES}
    known = {"named": named, "criteria": CRITERIA, "trainings": trainings}
    return PublishedSettings.model_validate(known)


def published_training(recipe: str) -> dict:
    """The settings of the published training of `recipe`."""
    training = PUBLISHED["training"]
    entries = training["shared"] | training["recipes"][recipe]
    return {key: entry["value"] for key, entry in entries.items()}
