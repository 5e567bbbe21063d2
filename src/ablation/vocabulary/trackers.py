"""The trackers in which a training can be shown, and how a job says which ones its study names."""

from __future__ import annotations

# Each is the name of its Python package, of its extra in pyproject.toml, and of its integration in
# transformers (`report_to`).
TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")
# An environment variable of a job, which the ranks of a training inherit. Its value is JSON:
# `trackers`, `study`, the `manifest` of the job and the hash of its `fingerprint`.
TRACKING = "ABLATION_TRACKING"
