"""Computes accuracies from sample rows; scoring and all tables use these functions."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd

from ablation.data.sample_rows import refuse_nan
from ablation.vocabulary.generation import macros
from ablation.vocabulary.metrics import METRIC, METRICS, Metric

Correct = Mapping[str, Mapping[str, pd.Series]]  # metric -> task -> 0/1 indexed by doc_hash


class UnknownMetric(ValueError):
    """A metric has no entry in `ablation.vocabulary.metrics`."""


def known_metric(name: str) -> Metric:
    """The metric of this name. Raises UnknownMetric if there is none."""
    if name not in METRIC:
        raise UnknownMetric(f"metric {name!r} found, but one of {', '.join(METRICS)} was expected")
    return METRIC[name]


def item_correct(samples: pd.DataFrame, metric: str) -> dict[str, pd.Series]:
    """{task: 0/1 of each item, indexed by doc_hash}: 1 if the best-scored choice is the gold one.

    Of choices with equal scores the first is the best. A choice without scored tokens, which occurs
    in the published protocol, counts as one of one token. Raises UnknownMetric, and ValueError for
    log-likelihoods that are NaN.
    """
    return _correct(samples, [known_metric(metric)])[metric]


def correct_by_metric(samples: pd.DataFrame) -> dict[str, dict[str, pd.Series]]:
    """`item_correct` under every metric."""
    return _correct(samples, list(METRIC.values()))


def _correct(samples: pd.DataFrame, metrics: list[Metric]) -> dict[str, dict[str, pd.Series]]:
    """`item_correct` under several metrics, for which the rows are sorted only once."""
    rows = samples.sort_values(["task", "doc_id", "choice"], kind="stable", ignore_index=True)
    starts = np.flatnonzero(~rows.duplicated(["task", "doc_id"]))  # the first choice of each item
    item = np.repeat(np.arange(len(starts)), np.diff([*starts, len(rows)]))
    firsts = rows.loc[starts, ["task", "doc_hash"]].reset_index(drop=True)
    tasks = {str(task): pd.Index(of_task.doc_hash) for task, of_task in firsts.groupby("task")}
    ends = np.cumsum([len(documents) for documents in tasks.values()])
    is_gold = (rows.choice == rows.gold).to_numpy().astype(int)
    found: dict[str, dict[str, pd.Series]] = {}
    for metric in metrics:
        refuse_nan(samples, metric.loglikelihood)
        length = rows[metric.per].clip(lower=1) if metric.per else 1
        score = (rows[metric.loglikelihood] / length).to_numpy()
        is_best = np.flatnonzero(score == np.maximum.reduceat(score, starts)[item])
        best = is_best[np.unique(item[is_best], return_index=True)[1]]
        right = np.split(is_gold[best], ends)[:-1]
        found[metric.name] = {
            task: pd.Series(of_task, documents, name="right")
            for (task, documents), of_task in zip(tasks.items(), right, strict=True)
        }
    return found


def truncated_items(samples: pd.DataFrame) -> dict[str, int]:
    """{task: number of items whose prompt was cut from the left}, without tasks that have none."""
    counts = samples[samples.truncated].groupby("task").doc_id.nunique()
    return {str(task): int(n) for task, n in counts.items()}


def accuracies(correct: Correct, truncated: Mapping[str, int]) -> dict[str, dict[str, float | int]]:
    """{task or macro: {metric: accuracy, `n`: items, `truncated`: items with a cut prompt}}.

    A macro has the unweighted means of the accuracies over the tasks of its protocol, and the sums
    of the counts.
    """
    found: dict[str, dict[str, float | int]] = {}
    for task, right in next(iter(correct.values())).items():
        found[task] = {metric: float(correct[metric][task].mean()) for metric in correct}
        found[task] |= {"n": len(right), "truncated": int(truncated.get(task, 0))}
    for macro, names in macros(found).items():
        tasks = [found[name] for name in names]
        found[macro] = {metric: mean(task[metric] for task in tasks) for metric in correct}
        found[macro] |= {count: sum(task[count] for task in tasks) for count in ("n", "truncated")}
    return found


def metrics_from_samples(samples: pd.DataFrame) -> dict[str, dict[str, float | int]]:
    """The `accuracies` of one condition's sample rows, which metrics.json holds under `tasks`."""
    return accuracies(correct_by_metric(samples), truncated_items(samples))


class MetricsDisagree(AssertionError):
    """Accuracies recomputed from sample rows differ from those of lm_eval."""


def check_against_lm_eval(
    found: Mapping[str, Mapping[str, float | int]], facts: Mapping[str, Any]
) -> None:
    """Compare `accuracies` with those that lm_eval computed, which `facts` (evaluation.json) holds.

    Raises MetricsDisagree for a metric that both compute and that differs.
    """
    for task, theirs in facts["lm_eval"].items():
        for metric in (m.name for m in METRIC.values() if m.by_lm_eval and m.name in theirs):
            if task in found and abs(found[task][metric] - theirs[metric]) > 1e-9:
                raise MetricsDisagree(
                    f"task {task}: {metric} is {found[task][metric]:.6f} from the sample rows, but "
                    f"{theirs[metric]:.6f} from lm_eval. The rows do not describe what was scored: "
                    "the gold choices, their order or their lengths differ. This is a bug."
                )


def study_metrics(samples: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of metrics.json: `facts` (evaluation.json) with the accuracies of every task.

    Raises MetricsDisagree.
    """
    found = metrics_from_samples(samples)
    check_against_lm_eval(found, facts)
    return {key: value for key, value in facts.items() if key != "lm_eval"} | {"tasks": found}
