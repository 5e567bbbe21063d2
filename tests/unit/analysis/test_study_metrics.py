"""Promise: no metrics.json and no table holds an accuracy that contradicts lm_eval's own."""

import json

import pandas as pd
import pytest

from ablation.analysis.conditions import read_conditions
from ablation.analysis.metrics import (
    MetricsDisagree,
    metrics_from_samples,
    study_metrics,
)


def rows_of_one_item():
    """Two equal choices: the first wins, and it is right."""
    item = {"task": "a", "doc_id": 0, "doc_hash": "h", "gold": 0, "truncated": False} | {
        "cluster": "h"
    }
    scored = [("loglikelihood", -1.0), ("loglikelihood_float32", -1.0)]
    lengths = dict.fromkeys(("tokens", "characters", "bytes"), 2)
    return pd.DataFrame([item | lengths | dict(scored) | {"choice": choice} for choice in (0, 1)])


def test_rows_that_disagree_with_lm_eval_are_an_error():
    samples = rows_of_one_item()
    facts = {"mask": "causal", "lm_eval": {"a": {"acc": 1.0}}}
    metrics = study_metrics(samples, facts)
    assert metrics == {"mask": "causal", "tasks": metrics_from_samples(samples)}
    facts["lm_eval"]["a"]["acc_norm"] = 0.75
    with pytest.raises(MetricsDisagree, match="task a: acc_norm is 1.0.* 0.75.* from lm_eval"):
        study_metrics(samples, facts)


def test_no_rows_have_no_accuracies():
    assert metrics_from_samples(rows_of_one_item().iloc[:0]) == {}


def test_rows_that_disagree_with_lm_eval_reach_no_table(tmp_path):
    rows_of_one_item().to_parquet(tmp_path / "samples.parquet")
    facts = {"fingerprint": {"stage": "stage1"}, "mask": "causal", "eval_leaks": False}
    facts["outputs"] = {"samples.parquet": {}, "evaluation.json": {}}
    (tmp_path / "manifest.json").write_text("{}")
    manifests = {str(tmp_path / "manifest.json"): facts | {"circumstances": {}}}
    for accuracy in (1.0, 0.75):
        theirs = {"lm_eval": {"a": {"acc": accuracy}}}
        (tmp_path / "evaluation.json").write_text(json.dumps(theirs))
        if accuracy == 1.0:
            (condition,) = read_conditions(manifests)
            assert condition.correct["acc"]["a"].tolist() == [1]
        else:
            with pytest.raises(MetricsDisagree, match="acc is 1.0.* 0.75.* from lm_eval"):
                read_conditions(manifests)
