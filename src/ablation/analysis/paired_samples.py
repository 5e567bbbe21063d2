"""Paired differences between two sample files of lm-eval, without a study. No torch.

Items are paired by their hashes, which lm-eval logs. Intervals and p values are those of the
study's own tables (`ablation.analysis.statistics`, docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ablation.analysis.conditions import UnpairedItems
from ablation.analysis.statistics import Difference, Interval, Means, holm, mcnemar, paired_means
from ablation.data.lm_eval_samples import NO_LEAK, UNFILTERED, Item, Metric, Samples
from ablation.vocabulary.protocols import MACRO

MCNEMAR, INTERVAL = "McNemar", "interval"  # the tests that `test` names
COLUMNS = (
    *("task", "metric", "filter", "n", "clusters", "a", "b", "difference", "difference_low"),
    *("difference_high", "p", "p_holm", "test", "only_a", "only_b"),
)


@dataclass
class Comparison:
    """The differences of all tasks, and what must be known to read them.

    rows: one for each task, metric and filter, with COLUMNS. `a` and `b` are means over the items,
        `only_a` and `only_b` the numbers of items that are right in one file alone (of metrics of 0
        and 1). `p_holm` is `p` adjusted over the tasks, where there are several.
    """

    rows: pd.DataFrame
    warnings: list[str] = field(default_factory=list)


class _Scored(NamedTuple):
    """One task and metric: values [2, 1, items] of both files, and the cluster of each item."""

    task: str
    metric: Metric
    values: np.ndarray
    groups: np.ndarray | None


def compare_samples(
    pairs: Mapping[str, tuple[Samples, Samples]],
    confidence: float = 0.95,
    metrics: Sequence[str] = (),
    shared: bool = False,
) -> Comparison:
    """The differences b - a of every metric that both files of a task have.

    pairs: {task: (a, b)}. metrics: names of the metrics; all if empty. shared: whether to compare
    the items that both files have, where each lacks some.

    Raises UnpairedItems if items cannot be paired, and ValueError if a metric is missing or not
    defined on an item.
    """
    scored: list[_Scored] = []
    warnings: list[str] = []
    for task, (a, b) in pairs.items():
        items = _paired_items(task, a, b, shared)
        warnings += _warnings(task, a, b, items)
        for metric in _metrics(task, a, b, metrics):
            scored.append(_scored(task, metric, a, b, items, shared))
    rows = [_row(one, confidence) for one in scored]
    if len(pairs) > 1:
        _adjust(rows)
        mean = MACRO
        if MACRO in pairs:
            mean = f"{MACRO} over tasks"
            warnings.append(f"a task is named {MACRO}: the mean over the tasks is the row {mean!r}")
        rows += _macros(scored, confidence, mean)
    return Comparison(pd.DataFrame(rows, columns=COLUMNS), list(dict.fromkeys(warnings)))


def _adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Add `p_holm` to the rows of tasks, adjusted over the tasks for each metric and filter."""
    families: dict[Metric, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["metric"], row["filter"]), []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p


# ---- pairing --------------------------------------------------------------------------------

Pairs = list[tuple[Item, Item]]


def _paired_items(task: str, a: Samples, b: Samples, shared: bool) -> Pairs:
    """The items of both files, by hash and index; by hash alone where the indices differ."""
    first, second = a.items, b.items
    if set(first) != set(second):
        of_a, of_b = ({item.doc_hash: item for item in file.items.values()} for file in (a, b))
        if len(of_a) == len(first) and len(of_b) == len(second):
            return _common(task, a, b, of_a, of_b, shared)
    return _common(task, a, b, first, second, shared)


def _common(
    task: str, a: Samples, b: Samples, first: Mapping, second: Mapping, shared: bool
) -> Pairs:
    common = [key for key in first if key in second]
    only_a, only_b = len(first) - len(common), len(second) - len(common)
    if not common:
        raise UnpairedItems(
            f"{a.path} and {b.path} have no document in common: they are of other tasks, or of "
            "other versions of their data. Two files of the same task were expected."
        )
    if (only_a or only_b) and not shared:
        raise UnpairedItems(
            f"{task}: the files are of different items: {only_a} only in {a.path}, {only_b} only "
            f"in {b.path}, {len(common)} in both.\n`--shared` compares these {len(common)} alone."
        )
    pairs = [(first[key], second[key]) for key in common]
    for one, other in pairs:
        if _differ(one.target_hash, other.target_hash):
            raise UnpairedItems(
                f"{task}: document {one.doc_id} has another expected answer in {b.path} than in "
                f"{a.path}: they are of different versions of the task"
            )
    return pairs


def _metrics(task: str, a: Samples, b: Samples, wanted: Sequence[str]) -> list[Metric]:
    """The metrics that both files have numbers of, in the order of the first."""
    both = [m for m in a.values if m in b.values and m not in a.no_numbers | b.no_numbers]
    names = {name for name, _ in both}
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(
            f"{task}: no metric {missing[0]} with a number for each item in both files. They have "
            f"{', '.join(sorted(names)) or 'none'}."
        )
    if not both:
        raise ValueError(
            f"{task}: {a.path} and {b.path} have no metric in common that is a number for each item"
        )
    return [metric for metric in both if not wanted or metric[0] in wanted]


def _scored(
    task: str, metric: Metric, a: Samples, b: Samples, items: Pairs, shared: bool
) -> _Scored:
    first, second = a.values[metric], b.values[metric]
    having = [(x, y) for x, y in items if x.key in first and y.key in second]
    if len(having) < len(items) and not shared or not having:
        raise UnpairedItems(
            f"{task}: {len(items) - len(having)} of {len(items)} items have no value of "
            f"{_named(metric)} in one of the files.\n`--shared` compares the others, `--metric` "
            "another metric."
        )
    values = np.array([[first[x.key], second[y.key]] for x, y in having]).T
    for file, row in zip((a, b), values, strict=True):
        if len(missing := np.flatnonzero(np.isnan(row))):
            item = having[missing[0]][0]
            raise ValueError(
                f"{file.path}: {_named(metric)} is NaN for {len(missing)} of {len(having)} items, "
                f"the first is document {item.doc_id}. A NaN is no result: score it again, or "
                "choose another metric by --metric."
            )
    return _Scored(task, metric, values[:, None], _clusters(having))


def _clusters(items: Pairs) -> np.ndarray | None:
    """The cluster of each item; None if no two items share one. An item without is its own."""
    named = [x.cluster if x.cluster is not None else y.cluster for x, y in items]
    names = [
        (name,) if name is not None else x.key for name, (x, _) in zip(named, items, strict=True)
    ]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names]) if len(numbers) < len(names) else None


def _warnings(task: str, a: Samples, b: Samples, items: Pairs) -> list[str]:
    found = [
        f"LEAKS ({file.leaks}), {file.path}: {file.condition or 'the model'} was trained or scored "
        "under a mask that shows it what it has to predict"
        for file in (a, b)
        if file.leaks != NO_LEAK
    ]
    prompts = sum(_differ(x.prompt_hash, y.prompt_hash) for x, y in items)
    if prompts:
        found.append(
            f"{task}: {prompts} of {len(items)} items have another prompt in the second file, so a "
            "difference may come from the prompts"
        )
    skipped = sorted({_named(m) for m in a.no_numbers | b.no_numbers})
    if skipped:
        found.append(f"{task}: not compared, no number for each item: {', '.join(skipped)}")
    return found


def _differ(one: str | None, other: str | None) -> bool:
    """Whether two hashes differ; of one that is missing nothing is known."""
    return one is not None and other is not None and one != other


def _named(metric: Metric) -> str:
    return metric[0] if metric[1] == UNFILTERED else f"{metric[0]} ({metric[1]})"


# ---- statistics -----------------------------------------------------------------------------


def _row(one: _Scored, confidence: float) -> dict[str, Any]:
    a, b = one.values[:, 0]
    binary = bool(np.isin(one.values, (0, 1)).all())
    found, means = paired_difference(one.values, one.groups, confidence)
    exact = binary and one.groups is None
    return {
        **_measured(one.task, [one], means, found),
        "p": mcnemar(a, b) if exact else found.p,
        "test": MCNEMAR if exact else INTERVAL,
        "only_a": int(np.sum(a > b)) if binary else None,
        "only_b": int(np.sum(b > a)) if binary else None,
    }


def paired_difference(
    values: np.ndarray, groups: np.ndarray | None, confidence: float
) -> tuple[Difference, np.ndarray]:
    """The mean of b - a over items, with its interval and p; and the means of a and b.

    values: [2, 1, items], in the metric's own unit. `paired_means` expects values in [0, 1], and
    adds z² coin flips to them. Other values are divided by √2 times the standard deviation of the
    differences first, so that it adds z² differences like those of the items.
    """
    size, bounded = 1.0, values.min() >= 0 and values.max() <= 1
    if not bounded:
        spread = math.sqrt(2) * float(np.std(values[1] - values[0]))
        size = spread or float(np.ptp(values)) or 1.0
    if not math.isfinite(size):
        raise ValueError("the values of a metric are too large to be compared")
    means = paired_means([values / size], confidence, [groups])
    found = means.difference(1, 0) if bounded else means.contrast(np.array([-1.0, 1.0]))
    interval = Interval(*(size * end for end in found.interval))
    return Difference(size * found.value, interval, found.p), size * means.values


def _macros(scored: Sequence[_Scored], confidence: float, name: str) -> list[dict[str, Any]]:
    """The unweighted mean over the tasks, for each metric between 0 and 1 that several have.

    name: the `task` of these rows.
    """
    rows = []
    for metric in dict.fromkeys(one.metric for one in scored):
        of_metric = [one for one in scored if one.metric == metric]
        if len(of_metric) < 2 or any(o.values.min() < 0 or o.values.max() > 1 for o in of_metric):
            continue
        groups = [one.groups for one in of_metric]
        means: Means = paired_means([one.values for one in of_metric], confidence, groups)
        found = means.difference(1, 0)
        measured = _measured(name, of_metric, means.values, found)
        rows.append(measured | {"p": found.p, "test": INTERVAL})
    return rows


def _measured(
    task: str, of_metric: Sequence[_Scored], means: np.ndarray, found: Difference
) -> dict[str, Any]:
    name, chosen = of_metric[0].metric
    counts = [o.values.shape[2] if o.groups is None else len(set(o.groups)) for o in of_metric]
    return {
        "task": task,
        "metric": name,
        "filter": chosen,
        "n": sum(one.values.shape[2] for one in of_metric),
        "clusters": sum(counts),
        "a": float(means[0]),
        "b": float(means[1]),
        "difference": found.value,
        "difference_low": found.interval.low,
        "difference_high": found.interval.high,
    }
