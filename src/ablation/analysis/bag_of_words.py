"""Bag-of-words baselines of the micro tasks.

If a task could be solved without word order, an ablated mask would do no damage, so every task must
stay near chance for this model. Its features are counts of every pair of a context word and a
choice word; it is trained on items of the training split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import log_softmax

from ablation.analysis.statistics import wilson
from ablation.micro_world.scenes import World
from ablation.micro_world.tasks import CHOICES, items, requests

TRAINING_ITEMS = 1000
FRESH_ITEMS = 2000  # from the eval split; a few hundred would vary too much with the draw
RIDGE = 1.0  # L2 penalty on every weight
MARGIN = 0.10  # a task is near chance if the upper Wilson bound is at most chance + MARGIN


def bag_of_words(world: World, by_task: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """One row for each task: task, chance, near_chance, and two measurements with 95 % intervals.

    `n`, `accuracy`, `accuracy_low` and `accuracy_high` are measured on a fresh draw from the eval
    split; `near_chance` follows from them. The same columns with the prefix `scored_` are measured
    on `by_task`, the items that the study reports.
    """
    rows = []
    for task, scored in by_task.items():
        training = items(world, task, TRAINING_ITEMS, seed=0, split="train")
        chance = 1 / CHOICES[task]
        row: dict[str, float] = {}
        fresh = items(world, task, FRESH_ITEMS, seed=0)
        tests = {"": fresh, "scored_": scored}
        right = correct_choices(training, *tests.values())
        for (prefix, tested), hits in zip(tests.items(), right, strict=True):
            interval = wilson(hits, len(tested), 0.95)
            row |= {
                f"{prefix}n": len(tested),
                f"{prefix}accuracy": hits / len(tested),
                f"{prefix}accuracy_low": interval.low,
                f"{prefix}accuracy_high": interval.high,
            }
        near = bool(row["accuracy_high"] <= chance + MARGIN)
        rows.append({"task": task, "chance": chance, "near_chance": near} | row)
    return pd.DataFrame(rows)


def correct_choices(training: Sequence[dict], *tests: Sequence[dict]) -> list[int]:
    """The items of each test that a conditional logit model, fitted to `training`, gets right.

    Its features are word counts. All items must have the same number of choices.
    """
    counts = [_features(*request) for item in training for request in requests(item)]
    index = {name: k for k, name in enumerate(sorted({n for c in counts for n in c}))}
    design = _matrix(counts, index)
    gold = np.array([item["gold"] for item in training])
    shape = (len(training), len(counts) // len(training))
    flat_gold = np.arange(shape[0]) * shape[1] + gold

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logprobs = log_softmax((design @ weights).reshape(shape), axis=1).ravel()
        residual = np.exp(logprobs)
        residual[flat_gold] -= 1
        penalty = 0.5 * RIDGE * weights @ weights
        return penalty - logprobs[flat_gold].sum(), design.T @ residual + RIDGE * weights

    start = np.zeros(len(index))
    weights = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x

    def hits(tested: Sequence[dict]) -> int:
        features = [_features(*request) for item in tested for request in requests(item)]
        guesses = (_matrix(features, index) @ weights).reshape(len(tested), -1).argmax(axis=1)
        return int((guesses == [item["gold"] for item in tested]).sum())

    return [hits(tested) for tested in tests]


def _features(context: str, continuation: str) -> Counter:
    """Counts of choice words, of (context word, choice word) pairs, and of words in both texts."""
    in_context = Counter(_words(context))
    features: Counter = Counter()
    for word in _words(continuation):
        features[word] += 1
        features["said before"] += in_context[word]
        for other, count in in_context.items():
            features[f"{other} {word}"] += count
    return features


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _matrix(counts: Sequence[Counter], index: Mapping[str, int]) -> csr_matrix:
    """Counts as [choices, features], without features that do not occur in training."""
    values, columns, starts = [], [], [0]
    for features in counts:
        for name, count in features.items():
            if name in index:
                values.append(float(count))
                columns.append(index[name])
        starts.append(len(values))
    return csr_matrix((values, columns, starts), shape=(len(counts), len(index)))
