"""Computes accuracies from sample rows; scoring and all tables use these functions."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

import pandas as pd

from ablation.data.sample_rows import refuse_nan
from ablation.vocabulary.metrics import METRIC, METRICS, Metric
from ablation.vocabulary.protocols import tasks_by_macro

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
    scoring = known_metric(metric)
    refuse_nan(samples, scoring.loglikelihood)
    length = samples[scoring.per].clip(lower=1) if scoring.per else 1
    scored = samples.assign(score=samples[scoring.loglikelihood] / length)
    scored = scored.sort_values(["task", "doc_id", "choice"], kind="stable", ignore_index=True)
    best = scored.loc[scored.groupby(["task", "doc_id"], sort=True).score.idxmax()]
    best = best.assign(right=(best.choice == best.gold).astype(int))
    by_task = best.groupby("task", sort=True)
    return {str(task): rows.set_index("doc_hash").right for task, rows in by_task}


def correct_by_metric(samples: pd.DataFrame) -> Correct:
    """`item_correct` under every metric."""
    return {metric: item_correct(samples, metric) for metric in METRICS}


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
    for macro, names in tasks_by_macro(found).items():
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
