"""published.csv: published numbers beside a study's own, in the columns of recovery.csv. No torch.

resources/published/prefill.json holds the printed digits. An accuracy over n items is a whole
number of right answers divided by n, so its exact value follows from the printed digits, and a
macro is the mean of its tasks. If a macro was printed with another value, its row has a `note`.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

import pandas as pd

from ablation.analysis.published_training import trained_otherwise
from ablation.analysis.recovery import table
from ablation.analysis.recovery_columns import COLUMNS as RECOVERY_COLUMNS
from ablation.analysis.recovery_columns import REHEARSAL
from ablation.config.fields import Strict
from ablation.config.recipes import MetricName
from ablation.config.study import Criteria
from ablation.vocabulary.masks import CAUSAL, LEAKING_MASKS
from ablation.vocabulary.protocols import (
    ALL_SEEDS,
    MACRO,
    MACROS,
    PUBLISHED_PREFIX,
    metric_of,
    protocol_of,
    tasks_by_macro,
)

PUBLISHED_SOURCE, OWN_SOURCE = "published", "ours"  # the values of the column `source`
IDENTITY = ["source", "study", "model", "protocol", "metric"]
COLUMNS = [*IDENTITY, *(c for c in RECOVERY_COLUMNS if c not in IDENTITY), "note"]


class StudyNames(Strict):
    """The names that published.csv has for a study, and whether it is a rehearsal."""

    model: str
    metric: MetricName
    rehearsal: bool = False


class PublishedSettings(Strict):
    """The part of a study's configuration that published.csv depends on.

    trainings: {recipe: the settings of its training, as `training_settings` gives them}.
    """

    named: StudyNames
    trainings: dict[str, dict[str, Any]]
    criteria: Criteria


def exact_accuracy(printed: str, n: int) -> float:
    """k / n, where k is the whole number of right answers for which k / n is printed as `printed`.

    Raises ValueError if there is no such k.
    """
    right = round(float(printed) * n)
    if not as_printed(right / n, printed):
        raise ValueError(f"no whole number of right answers among {n} is printed as {printed}")
    return right / n


def as_printed(value: float, printed: str) -> bool:
    """Whether `value`, rounded to as many digits as `printed` has, is `printed`."""
    return f"{value:.{len(printed.partition('.')[2])}f}" == printed


def accuracies(score: Mapping, items: Mapping[str, int]) -> dict[str, float]:
    """{task or `macro`: accuracy}; without tasks, the macro is the printed one."""
    tasks = {t: exact_accuracy(a, items[t]) for t, a in score.get("tasks", {}).items()}
    return {**tasks, MACRO: mean(tasks.values()) if tasks else float(score["macro"])}


def published_rows(published: Mapping, criteria: Criteria) -> list[dict]:
    """One row for each published recipe, mask and task, with columns of recovery.csv.

    No sample rows were published, so there are no intervals and no p values, and it is unknown
    whether the interval of a ratio would be bounded: `recovered_status` is `no_samples`.
    """
    base = {s["mask"]: s for s in published["scores"] if s["recipe"] is None}
    rows = []
    for after in published["scores"]:
        if after["recipe"] is None:
            continue
        used = [base[CAUSAL], base[after["mask"]], after]
        b, a, p = (accuracies(score, published["items"]) for score in used)
        for task in p:
            row = {
                "source": PUBLISHED_SOURCE,
                **{name: published[name] for name in IDENTITY[1:]},
                **{name: after[name] for name in ("recipe", "seed", "mask")},
                "task": task,
                "train_leaks": False,
                "eval_leaks": after["mask"] in LEAKING_MASKS,
                "n": published["items"].get(task, sum(published["items"].values())),
                "baseline": b[task],
                "after": p[task],
                "retention": p[task] / b[task],
                "recovery_ratio": p[task] / b[task],
                "note": _note(used, published["items"]) if task == MACRO else None,
            }
            if after["mask"] == CAUSAL:
                row["side_effect"] = p[task] - b[task]
            else:
                row |= _lost_and_gained(b[task], a[task], p[task], criteria)
            rows.append(row)
    return rows


def _lost_and_gained(b: float, a: float, p: float, criteria: Criteria) -> dict:
    met = p / b >= criteria.retention and p - a >= criteria.gain
    row = {"ablated": a, "damage": a - b, "gain": p - a, "criteria_met": met}
    if a >= b:
        return row | {"recovered_status": "not_estimable"}
    return row | {"recovered": (p - a) / (b - a), "recovered_status": "no_samples"}


def _note(used: list[Mapping], items: Mapping[str, int]) -> str | None:
    """The note of a macro row: remarks, and printed macros that differ from the mean of tasks."""
    notes = [used[-1]["note"]] if "note" in used[-1] else []
    for column, score in zip(("baseline", "ablated", "after"), used, strict=True):
        value = accuracies(score, items)[MACRO]
        if not as_printed(value, score["macro"]):
            notes.append(f"{column} printed as {score['macro']}; the mean of its tasks stands here")
    return "; ".join(notes) or None


def our_rows(
    recovery: pd.DataFrame, published: Mapping, settings: PublishedSettings
) -> pd.DataFrame:
    """The rows of recovery.csv (read as text) over all seeds, with their protocol and a note.

    Tasks get their published names.
    """
    ours, named = recovery[recovery.seed == ALL_SEEDS], settings.named
    items = {t: int(n) for t, n in zip(ours.task, ours.n, strict=True) if t not in MACROS}
    scored = {
        protocol_of(macro): _scored_otherwise(macro, tasks, items, published, named)
        for macro, tasks in tasks_by_macro(items).items()
    }
    trained = {
        recipe: trained_otherwise(settings.trainings[recipe], published, recipe)
        for recipe in ours.recipe.unique()
    }
    protocol = ours.task.map(protocol_of)

    def note(recipe: str, protocol: str) -> str:
        """Why a row cannot be compared with the published ones, or an empty text."""
        if named.rehearsal:
            return REHEARSAL.removeprefix("false: ")
        unlike = ", ".join(filter(None, [*scored[protocol], trained[recipe]]))
        return f"not comparable with the published rows: other {unlike}" if unlike else ""

    return ours.assign(
        source=OWN_SOURCE,
        model=named.model,
        protocol=protocol,
        metric=ours.task.map(lambda task: metric_of(task, named.metric)),
        task=ours.task.str.removeprefix(PUBLISHED_PREFIX),
        note=[note(*row) for row in zip(ours.recipe, protocol, strict=True)],
    )[COLUMNS]


def _scored_otherwise(
    macro: str, tasks: list[str], items: Mapping, published: Mapping, named: StudyNames
) -> list[str]:
    """What differs from the published scores in those of one protocol."""
    found = {"protocol": protocol_of(macro), "metric": metric_of(macro, named.metric)}
    unlike = [name for name in found if found[name] != published[name]]
    counts = {task.removeprefix(PUBLISHED_PREFIX): items[task] for task in tasks}
    if counts != published["items"]:
        unlike.append("items" if set(counts) == set(published["items"]) else "tasks")
    return unlike


def side_by_side(
    published: Mapping, recovery: pd.DataFrame, settings: PublishedSettings
) -> pd.DataFrame:
    """published.csv: the published rows, then the study's own, with `COLUMNS`.

    `published` is the content of resources/published/prefill.json. `recovery` is recovery.csv, read
    as text so that its cells keep their bytes.
    """
    rows = published_rows(published, settings.criteria)
    theirs = pd.DataFrame(rows).reindex(columns=COLUMNS).astype(object)
    theirs[RECOVERY_COLUMNS] = table(rows).astype(object)
    ours = our_rows(recovery, published, settings)
    return pd.concat([theirs, ours.astype(object)], ignore_index=True)
