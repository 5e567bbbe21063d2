"""How far word counts alone get: a bag-of-words model for each task.

A task whose items can be answered without reading order would show no damage when the mask is
ablated, so each must stay near chance for this model. It is a strong one of its kind: it sees
every pair of a context word and a choice word, learned from items of the training split.
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

from ablation.statistics import wilson
from ablation.world.scenes import World
from ablation.world.tasks import CHOICES, items, requests

TRAINING_ITEMS = 1000
FRESH_ITEMS = 2000  # of the eval split: a few hundred say more about the draw than about the task
RIDGE = 1.0  # L2 penalty on every weight
MARGIN = 0.10  # the upper Wilson bound must stay below chance + this


def bag_of_words(world: World, by_task: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """One row a task: task, chance, near_chance, and two measurements with 95 % intervals.

    Trained on items of the training split. `n`, `accuracy`, `accuracy_low`, `accuracy_high`: on a
    fresh draw of the eval split, from which `near_chance` follows. The same with `scored_` before
    them: on `by_task`, the items that the study reports.
    """
    rows = []
    for task, scored in by_task.items():
        training = items(world, task, TRAINING_ITEMS, seed=0, split="train")
        chance, row = 1 / CHOICES[task], {"task": task}
        fresh = items(world, task, FRESH_ITEMS, seed=0)
        for prefix, asked in (("", fresh), ("scored_", scored)):
            hits = correct_choices(training, asked)
            interval = wilson(hits, len(asked), 0.95)
            row |= {
                f"{prefix}n": len(asked),
                f"{prefix}accuracy": hits / len(asked),
                f"{prefix}accuracy_low": interval.low,
                f"{prefix}accuracy_high": interval.high,
            }
        near = bool(row["accuracy_high"] <= chance + MARGIN)
        rows.append({"task": task, "chance": chance, "near_chance": near} | row)
    return pd.DataFrame(rows)


def correct_choices(training: Sequence[dict], scored: Sequence[dict]) -> int:
    """How many of `scored` a conditional logit model on word features, fitted to `training`, gets.

    Every item of both must have equally many choices.
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
    asked = [_features(*request) for item in scored for request in requests(item)]
    guesses = (_matrix(asked, index) @ weights).reshape(len(scored), -1).argmax(axis=1)
    return int((guesses == [item["gold"] for item in scored]).sum())


def _features(context: str, continuation: str) -> Counter:
    """Counts of choice words, of (context word, choice word) pairs and of words in both."""
    told, said = Counter(_words(context)), _words(continuation)
    features: Counter = Counter()
    for word in said:
        features[word] += 1
        features["said before"] += told[word]
        for other, count in told.items():
            features[f"{other} {word}"] += count
    return features


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _matrix(counts: Sequence[Counter], index: Mapping[str, int]) -> csr_matrix:
    """[choices, features]; features never seen in training are left out."""
    values, columns, starts = [], [], [0]
    for features in counts:
        for name, count in features.items():
            if name in index:
                values.append(float(count))
                columns.append(index[name])
        starts.append(len(values))
    return csr_matrix((values, columns, starts), shape=(len(counts), len(index)))
