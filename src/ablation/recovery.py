"""From sample rows to the recovery table: what was lost, what came back. Pure: no torch.

B, A and P are a model's accuracies on the same items: base under `causal`, base under an ablated
mask, finetuned under that mask. Names: docs/stages.md. Formulas: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd

from ablation.conditions import Condition, comparable, paired
from ablation.names import ALL_SEEDS, macros, metric_of
from ablation.recipes import contrasted
from ablation.statistics import Difference, Means, holm, mcnemar, paired_means

COLUMNS = [
    *("study", "recipe", "seed", "mask", "task", "train_leaks", "eval_leaks", "comparable", "n"),
    *("baseline", "ablated", "after"),
    *("damage", "damage_low", "damage_high", "damage_p"),
    *("gain", "gain_low", "gain_high", "gain_p"),
    *("side_effect", "side_effect_low", "side_effect_high", "side_effect_p"),
    *("retention", "recovery_ratio"),
    *("recovered", "recovered_low", "recovered_high", "recovered_status", "criteria_met"),
    *("baseline_manifest", "ablated_manifest", "after_manifest"),
]
# Columns that hold words; all others but the manifests hold numbers or nothing.
WORDS = {"study", "recipe", "against", "seed", "mask", "task", "comparable", "recovered_status"} | {
    "train_leaks",
    "eval_leaks",
    "criteria_met",
}
CONTRAST_COLUMNS = [
    *("study", "recipe", "against", "seed", "mask", "train_leaks", "eval_leaks", "task", "n"),
    *("after", "after_against"),
    *("recovered_difference", "recovered_difference_low", "recovered_difference_high"),
    "recovered_status",
]

REHEARSAL = "false: random weights, a rehearsal: accuracies mean nothing"

Scores = Mapping[str, np.ndarray]  # task -> [conditions, seeds, items] of 0/1


def recovery_rows(
    recipe: str,
    mask: str,
    baseline: Condition,
    ablated: Condition | None,
    after: Mapping[int, Condition],
    config: Mapping,
) -> list[dict]:
    """The rows of one recipe under one mask: every seed and all of them, every task and macro.

    `ablated` is None under `causal`, where only the side effect P - B exists.
    """
    fixed = [baseline] if ablated is None else [baseline, ablated]
    last = len(fixed)
    # B and A have no seeds: one comparison stands in the rows of every recipe and seed
    damage = _differences(_scores(fixed, [], config), 1, 0, config) if ablated else None
    rows = []
    for seed, finetuned in _by_seed(after):
        used = [*fixed, *finetuned]
        scores = _scores(fixed, [finetuned], config)
        against = _differences(scores, last, last - 1, config)
        for task, means in _means(scores, config).items():
            b, p = means.values[0], means.values[last]
            row = {
                "study": config["study"],
                "recipe": recipe,
                "seed": seed,
                "mask": mask,
                "task": task,
                "train_leaks": any(c.train_leaks for c in finetuned),
                "eval_leaks": any(c.eval_leaks for c in used),
                "comparable": REHEARSAL if config.get("rehearsal") else comparable(used),
                "n": _items(scores, task),
                "baseline": b,
                "after": p,
                "retention": p / b if b else None,
                "recovery_ratio": p / b if b else None,
                "baseline_manifest": baseline.manifest,
                "after_manifest": None if seed == ALL_SEEDS else finetuned[0].manifest,
            }
            if ablated is None:
                row |= _columns("side_effect", against[task])
            else:
                row |= {"ablated": means.values[1], "ablated_manifest": ablated.manifest}
                row |= _columns("damage", damage[task]) | _columns("gain", against[task])
                row |= _ratio_columns("recovered", means, (2, 1), (0, 1))
                criteria = config["criteria"]
                enough = (row["retention"] or 0) >= criteria["retention"]
                row["criteria_met"] = bool(enough and row["gain"] >= criteria["gain"])
            rows.append(row)
    return rows


def contrast_rows(
    recipe: str,
    against: str,
    mask: str,
    baseline: Condition,
    ablated: Condition,
    after: Mapping[int, Condition],
    after_against: Mapping[int, Condition],
    config: Mapping,
) -> list[dict]:
    """R(recipe) - R(against), whose denominator B - A is the same: Fieller on P - P'.

    Seeds are paired: the same seed is the same order of the same finetuning data.
    """
    rows = []
    both = {s: [after[s], after_against[s]] for s in set(after) & set(after_against)}
    for seed, pairs in _by_seed(both):
        scores = _scores([baseline, ablated], list(zip(*pairs, strict=True)), config)
        finetuned = list(chain(*pairs))
        for task, means in _means(scores, config).items():
            row = {
                "study": config["study"],
                "recipe": recipe,
                "against": against,
                "seed": seed,
                "mask": mask,
                "train_leaks": any(c.train_leaks for c in finetuned),
                "eval_leaks": any(c.eval_leaks for c in (baseline, ablated, *finetuned)),
                "task": task,
                "n": _items(scores, task),
                "after": means.values[2],
                "after_against": means.values[3],
            }
            rows.append(row | _ratio_columns("recovered_difference", means, (2, 3), (0, 1)))
    return rows


def _by_seed(after: Mapping[int, object]) -> list[tuple[int | str, list]]:
    """(seed, what it has) for every seed, then all of them under the name of them all."""
    seeds = sorted(after)
    return [*((s, [after[s]]) for s in seeds), (ALL_SEEDS, [after[s] for s in seeds])]


def _scores(
    fixed: Sequence[Condition], seeded: Sequence[Sequence[Condition]], config: Mapping
) -> dict[str, np.ndarray]:
    """Per task [conditions, seeds, items]: those without seeds, repeated, then those with."""
    n_seeds = len(seeded[0]) if seeded else 1
    columns = [*([c] * n_seeds for c in fixed), *seeded]
    scores = {}
    for task in fixed[0].correct[config["metric"]]:
        stacked = paired(list(chain(*columns)), metric_of(task, config["metric"]), task)
        scores[task] = stacked.reshape(len(columns), n_seeds, -1)
    return scores


def _means(scores: Scores, config: Mapping) -> dict[str, Means]:
    """Per task, and for each macro."""
    confidence = config["statistics"]["confidence"]
    groups = {task: [task] for task in scores} | macros(scores)
    return {n: paired_means([scores[t] for t in group], confidence) for n, group in groups.items()}


def _differences(scores: Scores, after: int, before: int, config: Mapping) -> dict[str, Difference]:
    """Per task and macro; p values of tasks adjusted by Holm over the tasks of a protocol.

    Of one seed they are exact (McNemar). Accuracies averaged over seeds are no 0/1 any more: then
    they are the intervals' own, as the macro's always is.
    """
    found = {task: m.difference(after, before) for task, m in _means(scores, config).items()}
    raw = {
        task: found[task].p if s.shape[1] > 1 else mcnemar(s[before, 0], s[after, 0])
        for task, s in scores.items()
    }
    adjusted: dict[str, float] = {}
    for names in macros(scores).values():
        adjusted |= zip(names, holm([raw[task] for task in names]), strict=True)
    return {task: d._replace(p=adjusted.get(task, d.p)) for task, d in found.items()}


def _items(scores: Scores, task: str) -> int:
    return sum(scores[name].shape[2] for name in macros(scores).get(task, [task]))


def _columns(name: str, found: Difference) -> dict:
    low, high = found.interval
    return {name: found.value, f"{name}_low": low, f"{name}_high": high, f"{name}_p": found.p}


def _ratio_columns(
    name: str, means: Means, numerator: tuple[int, int], denominator: tuple[int, int]
) -> dict:
    ratio = means.ratio(numerator, denominator)
    low, high = ratio.interval or (None, None)
    found = {name: ratio.value, f"{name}_low": low, f"{name}_high": high}
    return found | {"recovered_status": ratio.status}


def study_tables(conditions: Sequence[Condition], config: Mapping) -> tuple[list, list]:
    """(recovery rows, contrast rows) of a study: every recipe and mask, and contrasts of recipes.

    `config` holds `study`, `metric`, `statistics` and `criteria`; `rehearsal` where weights are
    random, which every row then says.
    """
    base = {c.mask: c for c in conditions if c.recipe is None}
    finetuned: dict[tuple[str, str], dict[int, Condition]] = {}
    for c in conditions:
        if c.recipe is not None:
            finetuned.setdefault((c.recipe, c.mask), {})[c.seed] = c
    rows, contrasts = [], []
    causal = base["causal"]
    for (recipe, mask), after in sorted(finetuned.items()):
        ablated = base[mask] if mask != "causal" else None
        rows += recovery_rows(recipe, mask, causal, ablated, after, config)
        for (against, other_mask), other in sorted(finetuned.items()):
            if ablated and mask == other_mask and contrasted(recipe, against):
                contrasts += contrast_rows(
                    recipe, against, mask, causal, ablated, after, other, config
                )
    return rows, contrasts


def table(rows: Sequence[Mapping], columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Rows as a table with exactly `columns`, rounded so that bytes repeat.

    Numbers to 9 decimals, p values to 6 significant digits: a tiny one must not become 0.
    """
    frame = pd.DataFrame(list(rows)).reindex(columns=list(columns))
    for column in columns:
        if column.endswith("_p"):
            frame[column] = pd.to_numeric(frame[column]).map(lambda p: float(f"{p:.6g}"))
        elif column not in WORDS and not column.endswith("_manifest"):
            frame[column] = pd.to_numeric(frame[column]).round(9)
    return frame
