"""Promises of accuracies: the best choice under each metric, and means over items and tasks."""

from statistics import mean

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.analysis.metrics import item_correct, metrics_from_samples
from ablation.vocabulary.metrics import METRICS

# What a log-likelihood is divided by: (column of the log-likelihood, divisor of a row).
SCORES = {
    "acc": ("loglikelihood", lambda row: 1),
    "acc_norm": ("loglikelihood", lambda row: row["characters"]),
    "acc_bytes": ("loglikelihood", lambda row: row["bytes"]),
    "acc_token": ("loglikelihood", lambda row: max(row["tokens"], 1)),
    "acc_token_float32": ("loglikelihood_float32", lambda row: max(row["tokens"], 1)),
}
few = st.sampled_from([-3.0, -2.0, -1.5, -1.0])  # so few that ties are common
choice = st.fixed_dictionaries(
    {
        "loglikelihood": few,
        "loglikelihood_float32": few,
        "tokens": st.integers(0, 3),
        "characters": st.integers(1, 4),
        "bytes": st.integers(1, 6),
        "truncated": st.booleans(),
    }
)
item = st.tuples(st.lists(choice, min_size=1, max_size=4), st.integers(0, 3))
tasks = st.dictionaries(
    st.sampled_from(["a", "b", "published_a"]),
    st.lists(item, min_size=1, max_size=4),
    min_size=1,
)


def rows_of(drawn):
    """Sample rows, as scoring writes them, of {task: [(choices, gold)]}."""
    return [
        {"task": task, "doc_id": i, "doc_hash": f"{task}{i}", "choice": c, "gold": gold} | fields
        for task, items in drawn.items()
        for i, (choices, gold) in enumerate(items)
        for c, fields in enumerate(choices)
    ]


def right(choices, gold, metric):
    """1 where the first of the choices with the best score is the gold one."""
    name, divisor = SCORES[metric]
    scores = [row[name] / divisor(row) for row in choices]
    return int(scores.index(max(scores)) == gold)


@settings(max_examples=15)
@given(tasks, st.randoms(use_true_random=False))
def test_right_is_the_first_of_the_best_choices_whatever_the_order_of_rows(drawn, random):
    rows = rows_of(drawn)
    random.shuffle(rows)
    assert set(SCORES) == set(METRICS)
    for metric in METRICS:
        found = item_correct(pd.DataFrame(rows), metric)
        assert {task: dict(series) for task, series in found.items()} == {
            task: {f"{task}{i}": right(*one, metric) for i, one in enumerate(items)}
            for task, items in drawn.items()
        }


@settings(max_examples=15)
@given(tasks)
def test_accuracies_are_means_over_items_and_a_macro_the_mean_over_tasks_of_its_protocol(drawn):
    found = metrics_from_samples(pd.DataFrame(rows_of(drawn)))
    whole = dict(found)
    for task, items in drawn.items():
        known = dict(found.pop(task))
        assert known.pop("n") == len(items)
        cut = sum(any(row["truncated"] for row in choices) for choices, _ in items)
        assert known.pop("truncated") == cut
        assert known == {m: pytest.approx(mean(right(*i, m) for i in items)) for m in METRICS}
    groups = {"macro": {"a", "b"} & set(drawn), "published_macro": {"published_a"} & set(drawn)}
    assert set(found) == {macro for macro, names in groups.items() if names}
    for macro, known in found.items():
        parts = [whole[task] for task in groups[macro]]
        assert known == {m: pytest.approx(mean(p[m] for p in parts)) for m in METRICS} | {
            count: sum(p[count] for p in parts) for count in ("n", "truncated")
        }


@pytest.mark.parametrize("name", ["loglikelihood", "loglikelihood_float32"])
@pytest.mark.parametrize("scores", [[np.nan, -1.0], [np.nan, np.nan]])
def test_a_score_that_is_no_number_makes_no_item_right(name, scores):
    """Left out, it would leave the other choice as the best one."""
    whole = {"tokens": 1, "characters": 1, "bytes": 1, "truncated": False}
    rows = [whole | {"loglikelihood": -1.0, "loglikelihood_float32": -1.0} for _ in scores]
    samples = pd.DataFrame(rows_of({"a": [(rows, 1)]})).assign(**{name: scores})
    told = f"{sum(map(np.isnan, scores))} of 2 log-likelihoods are NaN, the first in a, doc_id 0"
    with pytest.raises(ValueError, match=told):
        metrics_from_samples(samples)
