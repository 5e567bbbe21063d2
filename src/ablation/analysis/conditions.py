"""Reads scored conditions from their sample rows. No torch.

A condition is one model under one mask or intervention, which its field `mask` names.

Every number in a table is recomputed from these rows; no table reads metrics.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from ablation.analysis.generations import read_generations
from ablation.analysis.metrics import (
    Correct,
    accuracies,
    check_against_lm_eval,
    correct_by_metric,
    known_metric,
    truncated_items,
)
from ablation.analysis.statistics import clustered_wilson, wilson
from ablation.data.generation.rows import ROWS
from ablation.provenance.files import sha256_file
from ablation.vocabulary.generation import EXACT_MATCH, metric_of_row
from ablation.vocabulary.protocols import MACROS


class UnpairedItems(ValueError):
    """Two conditions were not scored on the same items."""


@dataclass(frozen=True)
class Condition:
    """One model under one mask or intervention: its right answers, and how it was measured."""

    stage: str
    mask: str
    recipe: str | None  # None for the base
    seed: int | None
    train_leaks: bool
    eval_leaks: bool
    circumstances: Mapping[str, object]  # GPU kind, dtype, attention back end, package versions
    manifest: str  # sha256 of the manifest
    correct: Correct
    truncated: Mapping[str, int]  # task -> items whose prompt was cut from the left
    # task -> the cluster of each item, indexed as `correct`; without an entry, none belong together
    clusters: Mapping[str, pd.Series] = field(default_factory=dict)
    families: frozenset[str] = frozenset()  # of the finetuning records
    steps: int | None = None  # of the finetuning
    records: str | None = None  # sha256 of the finetuning records

    @property
    def generated(self) -> bool:
        """Whether texts were generated; else choices were scored."""
        return EXACT_MATCH in self.correct


def read_conditions(manifests: Mapping[str, Mapping]) -> list[Condition]:
    """The conditions of {path of manifest.json: its content}, in the order of their paths.

    Each manifest must have its rows, of choices or of texts, and evaluation.json in the same
    folder. Raises MetricsDisagree: rows that lm_eval judges otherwise reach no table.
    """
    conditions = []
    documents: dict[str, pd.Index] = {}  # of the first condition by task, which the others share
    for path, manifest in sorted(manifests.items()):
        home = Path(path).parent
        if ROWS in manifest["outputs"]:
            correct, truncated, clusters = read_generations(home)
        else:
            samples = pd.read_parquet(home / "samples.parquet")
            correct, truncated = correct_by_metric(samples), truncated_items(samples)
            clusters = clusters_of(samples)
            facts = json.loads((home / "evaluation.json").read_text("utf-8"))
            check_against_lm_eval(accuracies(correct, truncated), facts)
        for task, right in chain.from_iterable(tasks.items() for tasks in correct.values()):
            if documents.setdefault(task, right.index).equals(right.index):
                right.index = documents[task]
        conditions.append(
            Condition(
                stage=manifest["fingerprint"]["stage"],
                mask=manifest["mask"],
                recipe=manifest.get("recipe"),
                seed=manifest.get("seed"),
                train_leaks=manifest.get("train_leaks", False),
                eval_leaks=manifest["eval_leaks"],
                circumstances=manifest["circumstances"],
                manifest=sha256_file(path),
                correct=correct,
                truncated=truncated,
                clusters=clusters,
                families=frozenset(manifest.get("families", ())),
                steps=manifest.get("steps"),
                records=manifest.get("records"),
            )
        )
    return conditions


def clusters_of(samples: pd.DataFrame) -> dict[str, pd.Series]:
    """{task: the cluster of each item, indexed by doc_hash} of the tasks that have clusters."""
    items = samples[samples.choice == 0].set_index("doc_hash")
    of_tasks = {str(task): rows.cluster for task, rows in items.groupby("task")}
    return {task: names for task, names in of_tasks.items() if names.nunique() < len(names)}


def cluster_numbers(condition: Condition, metric: str, task: str) -> np.ndarray | None:
    """The number of each item's cluster, in the order of `paired`; None if there are none."""
    if task not in condition.clusters:
        return None
    names = condition.clusters[task].loc[condition.correct[metric][task].index]
    return np.unique(names.to_numpy(dtype=str), return_inverse=True)[1]


def paired(conditions: Sequence[Condition], metric: str, task: str) -> np.ndarray:
    """Right answers, [conditions, items] of 0/1, with the items in the first condition's order.

    Raises UnpairedItems if the conditions were not scored on the same documents.
    """
    scores = [c.correct[metric].get(task, pd.Series(dtype=int)) for c in conditions]
    first = scores[0].index
    if any(s.index.has_duplicates for s in scores):
        raise UnpairedItems(f"{task}: the same document occurs twice, items cannot be paired")
    for i, other in enumerate(scores):
        if other.index.equals(first):
            continue
        if set(other.index) != set(first):
            missing, new = len(set(first) - set(other.index)), len(set(other.index) - set(first))
            raise UnpairedItems(
                f"{task}: two conditions were scored on different items ({missing} documents of "
                f"the first are missing in the other, {new} are new). Score both again from the "
                f"same data."
            )
        scores[i] = other.loc[first]
    return np.stack([s.to_numpy() for s in scores])


def comparable(conditions: Sequence[Condition]) -> str:
    """`true`, or `false: different ...` with the circumstances that differ between conditions."""
    keys = sorted({key for c in conditions for key in c.circumstances})
    unequal = [k for k in keys if len({str(c.circumstances.get(k)) for c in conditions}) > 1]
    return "false: different " + ", ".join(unequal) if unequal else "true"


def per_task_table(
    study: str, conditions: Sequence[Condition], metric: str, confidence: float
) -> pd.DataFrame:
    """per_task.csv: the accuracy of every condition and task under every metric.

    The columns `accuracy` to `accuracy_high` use one metric, named in the column `metric`: the
    study's `metric`, or that of the task's protocol. Intervals are Wilson's, of clustered items
    for their effective number. Raises UnknownMetric.
    """
    known_metric(metric)
    rows = []
    for c in conditions:
        for task, measured in accuracies(c.correct, c.truncated).items():
            own = metric_of_row(task, metric)
            row = {
                "study": study,
                "stage": c.stage,
                "recipe": c.recipe,
                "seed": c.seed,
                "mask": c.mask,
                "train_leaks": c.train_leaks,
                "eval_leaks": c.eval_leaks,
                "task": task,
                "n": measured["n"],
                "truncated": measured["truncated"],
                "metric": own,
                "accuracy": measured[own],
                "accuracy_low": None,  # a macro is no share of n items, so it has no interval
                "accuracy_high": None,
            }
            if task not in MACROS:
                right, groups = c.correct[own][task].to_numpy(), cluster_numbers(c, own, task)
                interval = (
                    wilson(int(right.sum()), len(right), confidence)
                    if groups is None
                    else clustered_wilson(right, groups, confidence)
                )
                row |= {"accuracy_low": interval.low, "accuracy_high": interval.high}
            rows.append(row | {m: measured[m] for m in c.correct})
    frame = pd.DataFrame(rows).astype({"seed": "Int64"})
    numeric = frame.select_dtypes("float").columns
    return frame.assign(**{c: frame[c].round(9) for c in numeric})
