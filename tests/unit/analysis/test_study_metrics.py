"""Promise: metrics.json holds no accuracy that contradicts lm_eval's own."""

import pandas as pd
import pytest

from ablation.analysis.metrics import (
    MetricsDisagree,
    metrics_from_samples,
    study_metrics,
)


def test_rows_that_disagree_with_lm_eval_are_an_error():
    item = {"task": "a", "doc_id": 0, "doc_hash": "h", "gold": 0, "truncated": False}
    scored = [("loglikelihood", -1.0), ("loglikelihood_float32", -1.0)]
    lengths = dict.fromkeys(("tokens", "characters", "bytes"), 2)
    rows = [item | lengths | dict(scored) | {"choice": choice} for choice in (0, 1)]
    samples = pd.DataFrame(rows)  # two equal choices: the first wins, and it is right
    facts = {"mask": "causal", "lm_eval": {"a": {"acc": 1.0}}}
    metrics = study_metrics(samples, facts)
    assert metrics == {"mask": "causal", "tasks": metrics_from_samples(samples)}
    facts["lm_eval"]["a"]["acc_norm"] = 0.75
    with pytest.raises(MetricsDisagree, match="task a: acc_norm is 1.0.* 0.75.* from lm_eval"):
        study_metrics(samples, facts)
