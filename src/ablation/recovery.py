"""From sample rows to the recovery table: what was lost, what came back. Pure: no torch.

B, A and P are a model's accuracies on the same items: base under `causal`, base under an ablated
mask, finetuned under that mask. Formulas and names: docs/stages.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablation.conditions import Condition, comparable, paired
from ablation.names import ALL_SEEDS, MACRO
from ablation.statistics import (
    Interval,
    fieller,
    holm,
    mcnemar,
    normal_p,
    percentile_interval,
    resampled_means,
)

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
    *("study", "recipe", "against", "seed", "mask", "task", "n", "after", "after_against"),
    *("recovered_difference", "recovered_difference_low", "recovered_difference_high"),
    "recovered_status",
]


@dataclass(frozen=True)
class Ratio:
    """A ratio of differences with its Fieller interval, when the loss can carry one."""

    value: float | None
    interval: Interval | None
    status: str


@dataclass(frozen=True)
class Resampled:
    """Point estimates and bootstrap draws of a few conditions' means, per task or as macro."""

    means: np.ndarray  # [conditions]
    draws: np.ndarray  # [resamples, conditions]
    confidence: float

    def difference(self, after: int, before: int) -> tuple[float, Interval, float]:
        """(difference, interval, p under a normal law with the bootstrap's standard error)."""
        value = float(self.means[after] - self.means[before])
        draws = self.draws[:, after] - self.draws[:, before]
        p = normal_p(value, float(draws.std(ddof=1)))
        return value, percentile_interval(draws, self.confidence), p

    def ratio(self, numerator: tuple[int, int], denominator: tuple[int, int]) -> Ratio:
        """A difference of conditions over another, or why it cannot be estimated."""
        top = self.means[numerator[0]] - self.means[numerator[1]]
        bottom = self.means[denominator[0]] - self.means[denominator[1]]
        pairs = np.stack(
            [
                self.draws[:, numerator[0]] - self.draws[:, numerator[1]],
                self.draws[:, denominator[0]] - self.draws[:, denominator[1]],
            ]
        )
        interval = fieller(top, bottom, np.cov(pairs), self.confidence) if bottom > 0 else None
        if interval is None:
            return Ratio(None, None, "not_estimable")
        return Ratio(float(top / bottom), interval, "estimable")


def _resample(
    tasks: Mapping[str, np.ndarray], statistics: Mapping, key: Sequence[object]
) -> dict[str, Resampled]:
    """Per task and for the macro; `tasks` maps to arrays [conditions, seeds, items]."""
    # the row's own name seeds its resamples: other rows come and go without moving it
    entropy = [statistics["bootstrap_seed"], *"/".join(map(str, key)).encode()]
    rng = np.random.default_rng(entropy)
    draws = resampled_means(list(tasks.values()), statistics["bootstrap_resamples"], rng)
    means = np.stack([scores.mean(axis=(1, 2)) for scores in tasks.values()], axis=1)
    confidence = statistics["confidence"]
    out = {t: Resampled(means[:, i], draws[:, :, i], confidence) for i, t in enumerate(tasks)}
    out[MACRO] = Resampled(means.mean(axis=1), draws.mean(axis=2), confidence)
    return out


def _spread(row: dict, name: str, triple: tuple[float, Interval, float]) -> None:
    value, interval, p = triple
    row |= {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    row[f"{name}_p"] = p


def recovery_rows(
    study: str,
    recipe: str,
    mask: str,
    metric: str,
    baseline: Condition,
    ablated: Condition | None,
    after: Mapping[int, Condition],
    statistics: Mapping,
    criteria: Mapping,
) -> list[dict]:
    """The rows of one recipe under one mask: every seed and all of them, every task and the macro.

    `ablated` is None under `causal`, where only the side effect P - B exists.
    """
    rows = []
    seeds = sorted(after)
    for seed in [*seeds, ALL_SEEDS]:
        finetuned = [after[s] for s in (seeds if seed == ALL_SEEDS else [seed])]
        used = [baseline, *([ablated] if ablated else []), *finetuned]
        tasks = {}
        for task in baseline.correct[metric]:
            stacked = paired(used, metric, task)
            base_rows = [
                np.repeat(row[None], len(finetuned), 0) for row in stacked[: -len(finetuned)]
            ]
            tasks[task] = np.stack([*base_rows, stacked[-len(finetuned) :]])
        resampled = _resample(tasks, statistics, (study, recipe, seed, mask))
        family = []
        for task, scores in resampled.items():
            n = sum(t.shape[2] for t in tasks.values()) if task == MACRO else tasks[task].shape[2]
            row = {
                "study": study,
                "recipe": recipe,
                "seed": seed,
                "mask": mask,
                "task": task,
                "train_leaks": any(c.train_leaks for c in finetuned),
                "eval_leaks": any(c.eval_leaks for c in used),
                "comparable": comparable(used),
                "n": n,
                "baseline": scores.means[0],
                "after": scores.means[-1],
                "retention": scores.means[-1] / scores.means[0] if scores.means[0] else None,
                "baseline_manifest": baseline.manifest,
                "after_manifest": finetuned[0].manifest if seed != ALL_SEEDS else None,
            }
            row["recovery_ratio"] = row["retention"]
            if ablated is None:
                _spread(row, "side_effect", scores.difference(1, 0))
            else:
                row |= {"ablated": scores.means[1], "ablated_manifest": ablated.manifest}
                _spread(row, "damage", scores.difference(1, 0))
                _spread(row, "gain", scores.difference(2, 1))
                ratio = scores.ratio((2, 1), (0, 1))
                row |= {"recovered": ratio.value, "recovered_status": ratio.status}
                if ratio.interval:
                    row |= {
                        "recovered_low": ratio.interval.low,
                        "recovered_high": ratio.interval.high,
                    }
                row["criteria_met"] = bool(
                    (row["retention"] or 0) >= criteria["retention"]
                    and row["gain"] >= criteria["gain"]
                )
            rows.append(row)
            if task != MACRO and seed != ALL_SEEDS:
                family.append((row, tasks[task]))
        _exact_p(family, ablated is not None)
    return rows


def _exact_p(family: Sequence[tuple[dict, np.ndarray]], has_ablated: bool) -> None:
    """Per-task p values of one seed: exact McNemar, Holm over the tasks."""
    pairs = {"damage": (1, 0), "gain": (2, 1)} if has_ablated else {"side_effect": (1, 0)}
    for name, (late, early) in pairs.items() if family else ():
        adjusted = holm([mcnemar(scores[early, 0], scores[late, 0]) for _, scores in family])
        for (row, _), p in zip(family, adjusted, strict=True):
            row[f"{name}_p"] = p


def contrast_rows(
    study: str,
    recipe: str,
    against: str,
    mask: str,
    metric: str,
    baseline: Condition,
    ablated: Condition,
    after: Mapping[int, Condition],
    after_against: Mapping[int, Condition],
    statistics: Mapping,
) -> list[dict]:
    """R(recipe) - R(against), whose denominator B - A is the same: Fieller on P - P'."""
    rows = []
    seeds = sorted(set(after) & set(after_against))
    for seed in [*seeds, ALL_SEEDS]:
        chosen = seeds if seed == ALL_SEEDS else [seed]
        tasks = {}
        for task in baseline.correct[metric]:
            used = [
                baseline,
                ablated,
                *(after[s] for s in chosen),
                *(after_against[s] for s in chosen),
            ]
            stacked, k = paired(used, metric, task), len(chosen)
            b, a = (np.repeat(stacked[i][None], k, 0) for i in (0, 1))
            tasks[task] = np.stack([b, a, stacked[2 : 2 + k], stacked[2 + k :]])
        for task, scores in _resample(
            tasks, statistics, (study, recipe, against, seed, mask)
        ).items():
            ratio = scores.ratio((2, 3), (0, 1))
            row = {
                "study": study,
                "recipe": recipe,
                "against": against,
                "seed": seed,
                "mask": mask,
                "task": task,
                "n": sum(t.shape[2] for t in tasks.values())
                if task == MACRO
                else tasks[task].shape[2],
                "after": scores.means[2],
                "after_against": scores.means[3],
                "recovered_difference": ratio.value,
                "recovered_status": ratio.status,
            }
            if ratio.interval:
                row["recovered_difference_low"] = ratio.interval.low
                row["recovered_difference_high"] = ratio.interval.high
            rows.append(row)
    return rows


def study_tables(conditions: Sequence[Condition], config: Mapping) -> tuple[list, list]:
    """(recovery rows, contrast rows) of a study: every recipe and mask, and every pair of recipes.

    `config` holds `study`, `metric`, `statistics` and `criteria`.
    """
    study, metric, statistics = config["study"], config["metric"], config["statistics"]
    base = {c.mask: c for c in conditions if c.recipe is None}
    finetuned: dict[tuple[str, str], dict[int, Condition]] = {}
    for c in conditions:
        if c.recipe is not None:
            finetuned.setdefault((c.recipe, c.mask), {})[c.seed] = c
    rows, contrasts = [], []
    for (recipe, mask), after in sorted(finetuned.items()):
        ablated = base[mask] if mask != "causal" else None
        rows += recovery_rows(
            study,
            recipe,
            mask,
            metric,
            base["causal"],
            ablated,
            after,
            statistics,
            config["criteria"],
        )
        for (against, other_mask), other in sorted(finetuned.items()):
            if ablated and mask == other_mask and recipe > against:
                contrasts += contrast_rows(
                    study,
                    recipe,
                    against,
                    mask,
                    metric,
                    base["causal"],
                    ablated,
                    after,
                    other,
                    statistics,
                )
    return rows, contrasts


def table(rows: Sequence[Mapping], columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Rows as a table with exactly `columns`; numbers rounded to 9 digits so that bytes repeat."""
    frame = pd.DataFrame(list(rows)).reindex(columns=list(columns))
    numeric = [c for c in columns if c not in WORDS and not c.endswith("_manifest")]
    return frame.assign(**{c: pd.to_numeric(frame[c]).round(9) for c in numeric})
