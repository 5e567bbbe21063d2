"""The recovery table: how much accuracy an ablation loses, and how much finetuning gives back.

B, A and P are a model's accuracies on the same items: the base under `causal`, the base under an
ablated mask, and the finetuned model under that mask. docs/stages.md has the names,
docs/statistics.md the formulas. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd

from ablation.analysis.conditions import Condition, cluster_numbers, paired
from ablation.analysis.recovery_columns import (
    COLUMN,
    COLUMNS,
    Comparison,
    RecoverySettings,
    Value,
    seeds_disagree,
)
from ablation.analysis.statistics import (
    Difference,
    Means,
    holm,
    mcnemar,
    p_of_equal_seeds,
    paired_means,
)
from ablation.vocabulary.generation import EXACT_MATCH, is_generated, macros, metric_of_row
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import ALL_SEEDS, exposure, tasks_by_exposure
from ablation.vocabulary.recipes import RECIPES, contrasted

CONTRAST_COLUMNS = [
    *("study", "recipe", "against", "seed", "mask", "train_leaks", "eval_leaks", "task", "n"),
    *("after", "after_against", "seeds_p", "seeds_disagree"),
    *("recovered_difference", "recovered_difference_low", "recovered_difference_high"),
    "recovered_status",
]
# Columns of both tables that hold no numbers; hashes of manifests come on top.
WORDS = {"against"} | {column.name for column in COLUMN.values() if column.kind == "words"}

Row = dict[str, Value]
Groups = Mapping[str, list[str]]  # task or macro -> the tasks that it is the mean of


@dataclass(frozen=True)
class Scores:
    """Right answers of some conditions, and the clusters of the items.

    right: {task: [conditions, seeds, items] of 0/1}. clusters: {task: number of each item's
    cluster, or None}.
    """

    right: Mapping[str, np.ndarray]
    clusters: Mapping[str, np.ndarray | None]


def recovery_rows(
    recipe: str,
    mask: str,
    baseline: Condition,
    ablated: Condition | None,
    after: Mapping[int, Condition],
    control: Control | None,
    settings: RecoverySettings,
) -> list[Row]:
    """The rows of one recipe under one mask: for each seed and for all, each task and macro.

    `after` holds the finetuned conditions by seed. `ablated` is None under `causal`, where only the
    side effect P - B is defined. `control` is None where nothing is a control of the recipe.
    """
    fixed = [baseline] if ablated is None else [baseline, ablated]
    last = len(fixed)
    families = frozenset[str]().union(*(condition.families for condition in after.values()))
    base = _scores(fixed, [], settings)
    groups = _groups(base, families)
    # B and A do not depend on seeds, so all rows of a mask have the same damage
    damage = _differences(base, 1, 0, settings, groups) if ablated else {}
    pairs = control.pairs(after) if control and ablated else {}
    rows = []
    for seed, seeds in _rows_of(after):
        finetuned = [after[s] for s in seeds]
        # C and D, each by seed, if every seed of the row has a control
        controlled = set(seeds) <= pairs.keys()
        controls = list(zip(*(pairs[s] for s in seeds), strict=True)) if controlled else []
        scores = _scores(fixed, [finetuned, *controls], settings)
        changes = _differences(scores, last, last - 1, settings, groups)
        for task, means in _means(scores, settings, groups).items():
            comparison = Comparison(
                settings,
                recipe,
                seed,
                mask,
                task,
                n=_items(scores, groups[task]),
                clusters=_clusters(scores, groups[task]),
                design_effect=means.design_effect(last, last - 1),
                exposure=exposure(groups[task], families),
                baseline=baseline,
                ablated=ablated,
                finetuned=finetuned,
                seeds_p=_equal_seeds(scores, groups[task], last),
                b=means.values[0],
                a=means.values[1] if ablated else None,
                p=means.values[last],
                damage=damage.get(task),
                change=changes[task],
                recovered=means.ratio((2, 1), (0, 1)) if ablated else None,
                control=control.recipe if control and controls else None,
                controls=[*chain(*controls)],
                c=means.values[3] if controls else None,
                d=means.values[4] if controls else None,
                net=means.ratio((2, 4), (3, 4)) if controls else None,
            )
            rows.append({name: column.compute(comparison) for name, column in COLUMN.items()})
    return rows


@dataclass(frozen=True)
class Control:
    """The control of a recipe: the same finetuning, but for the mask while training.

    without, under: its conditions under `causal` and under the mask of the rows, by seed.
    """

    recipe: str
    without: Mapping[int, Condition]
    under: Mapping[int, Condition]

    def pairs(self, after: Mapping[int, Condition]) -> dict[int, tuple[Condition, Condition]]:
        """(C, D) of each seed whose records and steps are those of the finetuning in `after`."""
        found = {}
        for seed in after.keys() & self.without.keys() & self.under.keys():
            c, d, p = self.without[seed], self.under[seed], after[seed]
            if (c.records, c.steps) == (p.records, p.steps):
                found[seed] = (c, d)
        return found


def contrast_rows(
    recipe: str,
    against: str,
    mask: str,
    baseline: Condition,
    ablated: Condition,
    after: Mapping[int, Condition],
    after_against: Mapping[int, Condition],
    settings: RecoverySettings,
) -> list[Row]:
    """The rows of R(recipe) - R(against) under one mask.

    Both have the denominator B - A, so the difference is (P - P') / (B - A), with an interval by
    Fieller's method.
    Seeds are paired, because the same seed has the same order of the same finetuning data.
    """
    rows: list[Row] = []
    for seed, seeds in _rows_of(set(after) & set(after_against)):
        pair = [after[s] for s in seeds], [after_against[s] for s in seeds]
        scores, finetuned = _scores([baseline, ablated], pair, settings), [*chain(*pair)]
        groups = _groups(scores)
        for task, means in _means(scores, settings, groups).items():
            row: Row = {
                "study": settings.study,
                "recipe": recipe,
                "against": against,
                "seed": seed,
                "mask": mask,
                "train_leaks": any(c.train_leaks for c in finetuned),
                "eval_leaks": any(c.eval_leaks for c in (baseline, ablated, *finetuned)),
                "task": task,
                "n": _items(scores, groups[task]),
                "after": means.values[2],
                "after_against": means.values[3],
                "seeds_p": (p := _equal_seeds(scores, groups[task], 2, 3)),
                "seeds_disagree": seeds_disagree(p),
            }
            ratio = means.ratio((2, 3), (0, 1))
            low, high = ratio.interval or (None, None)
            row |= {
                "recovered_difference": ratio.value,
                "recovered_difference_low": low,
                "recovered_difference_high": high,
                "recovered_status": ratio.status,
            }
            rows.append(row)
    return rows


def _rows_of(seeds: Iterable[int]) -> list[tuple[int | str, list[int]]]:
    """(seed, [seed]) for each seed, and then (`all`, all seeds)."""
    seeds = sorted(seeds)
    return [*((s, [s]) for s in seeds), (ALL_SEEDS, seeds)]


def _scores(
    fixed: Sequence[Condition], seeded: Sequence[Sequence[Condition]], settings: RecoverySettings
) -> Scores:
    """The right answers of `fixed`, repeated along the seeds, and then those of `seeded`."""
    n_seeds = len(seeded[0]) if seeded else 1
    columns: list[Sequence[Condition]] = [*([c] * n_seeds for c in fixed), *seeded]
    right, clusters = {}, {}
    for task in fixed[0].correct[EXACT_MATCH if fixed[0].generated else settings.metric]:
        metric = metric_of_row(task, settings.metric)
        stacked = paired(list(chain(*columns)), metric, task)
        right[task] = stacked.reshape(len(columns), n_seeds, -1)
        clusters[task] = cluster_numbers(fixed[0], metric, task)
    return Scores(right, clusters)


def _groups(scores: Scores, families: Collection[str] = ()) -> Groups:
    """Each task, each macro and, with the families of finetuning records, the partial macros."""
    groups = {task: [task] for task in scores.right} | macros(scores.right)
    if any(map(is_generated, scores.right)):
        return groups  # of no macro, and so of no part of one
    return groups | tasks_by_exposure(scores.right, families)


def _means(scores: Scores, settings: RecoverySettings, groups: Groups) -> dict[str, Means]:
    """The means of each task and each macro."""
    confidence = settings.statistics.confidence
    return {
        name: paired_means(
            [scores.right[t] for t in tasks], confidence, [scores.clusters[t] for t in tasks]
        )
        for name, tasks in groups.items()
    }


def _differences(
    scores: Scores,
    after: int,
    before: int,
    settings: RecoverySettings,
    groups: Groups,
) -> dict[str, Difference]:
    """The differences of two conditions in each task and macro.

    p values of tasks are adjusted by Holm over the tasks of a protocol, those of generated texts
    over all tasks and filters. For one seed they are exact
    (McNemar) if items are independent. For several seeds, clustered items, and a macro, the p value
    is the one that agrees with the interval.
    """
    means = _means(scores, settings, groups)
    found = {name: m.difference(after, before) for name, m in means.items()}
    raw = {
        task: mcnemar(s[before, 0], s[after, 0])
        if s.shape[1] == 1 and scores.clusters[task] is None
        else found[task].p
        for task, s in scores.right.items()
    }
    adjusted: dict[str, float] = {}
    texts = [task for task in scores.right if is_generated(task)]
    for names in filter(None, [*macros(scores.right).values(), texts]):
        adjusted |= zip(names, holm([raw[task] for task in names]), strict=True)
    return {task: d._replace(p=adjusted.get(task, d.p)) for task, d in found.items()}


def _equal_seeds(
    scores: Scores, tasks: Sequence[str], after: int, against: int | None = None
) -> float | None:
    """`p_of_equal_seeds` of a condition, or of its difference from another one of the same seed."""
    own = [
        scores.right[t][after] - (0 if against is None else scores.right[t][against]) for t in tasks
    ]
    return p_of_equal_seeds(own, [scores.clusters[t] for t in tasks])


def _items(scores: Scores, tasks: Sequence[str]) -> int:
    return sum(scores.right[task].shape[2] for task in tasks)


def _clusters(scores: Scores, tasks: Sequence[str]) -> int:
    """The number of independent draws: of clusters, or else of items."""
    numbers = (scores.clusters[task] for task in tasks)
    sizes = (scores.right[task].shape[2] for task in tasks)
    return sum(n if c is None else int(c.max()) + 1 for c, n in zip(numbers, sizes, strict=True))


def study_tables(
    conditions: Sequence[Condition], settings: RecoverySettings
) -> tuple[list[Row], list[Row]]:
    """(rows of recovery.csv, rows of contrasts.csv) of all conditions of a study.

    Rows of choices come first, then those of generated texts, which have conditions of their own.
    Raises UnpairedItems if conditions were not scored on the same documents.
    """
    rows: list[Row] = []
    contrasts: list[Row] = []
    for generated in (False, True):
        of_kind = [c for c in conditions if c.generated is generated]
        if of_kind:
            more = _tables_of(of_kind, settings)
            rows, contrasts = rows + more[0], contrasts + more[1]
    return rows, contrasts


def _tables_of(
    conditions: Sequence[Condition], settings: RecoverySettings
) -> tuple[list[Row], list[Row]]:
    base = {c.mask: c for c in conditions if c.recipe is None}
    finetuned: dict[tuple[str, str], dict[int, Condition]] = {}
    for c in conditions:
        if c.recipe is not None and c.seed is not None:
            finetuned.setdefault((c.recipe, c.mask), {})[c.seed] = c
    rows: list[Row] = []
    contrasts: list[Row] = []
    causal = base[CAUSAL]
    for (recipe, mask), after in sorted(finetuned.items()):
        ablated = base[mask] if mask != CAUSAL else None
        name = settings.controls.get(recipe, "")
        without, under = finetuned.get((name, CAUSAL)), finetuned.get((name, mask))
        control = Control(name, without, under) if without and under else None
        rows += recovery_rows(recipe, mask, causal, ablated, after, control, settings)
        for against in sorted(RECIPES):  # no variant is contrasted with another variant
            other = finetuned.get((against, mask))
            if ablated and other and contrasted(recipe, against):
                contrasts += contrast_rows(
                    recipe, against, mask, causal, ablated, after, other, settings
                )
    return rows, contrasts


def table(rows: Sequence[Mapping], columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Rows as a table with exactly `columns`, rounded so that equal results have equal bytes.

    Numbers are rounded to 9 decimals. p values are rounded to 6 significant digits, so that a tiny
    one does not become 0.
    """
    frame = pd.DataFrame(list(rows)).reindex(columns=list(columns))
    for column in columns:
        if column.endswith("_p"):
            frame[column] = pd.to_numeric(frame[column]).map(lambda p: float(f"{p:.6g}"))
        elif column not in WORDS and not column.endswith("_manifest"):
            frame[column] = pd.to_numeric(frame[column]).round(9)
    return frame
