"""Recovery over several worlds: the mean of all worlds, and the interval for a new one. No torch.

Every interval of recovery.csv speaks of one base. A world with other facts, items and records has a
base of its own, and this module treats the worlds as draws from a population of worlds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special

from ablation.analysis.statistics import Interval
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO

MEASURES = ("recovered", "net_recovered")
WORLD_COLUMNS = ("recipe", "mask", "measure", "world", "value", "low", "high")
POOLED_COLUMNS = (
    *("recipe", "mask", "measure", "worlds", "mean", "low", "high"),
    *("new_world_low", "new_world_high", "between_worlds"),
)


class Pooled(NamedTuple):
    """The mean over the population of worlds.

    interval: for this mean. new_world: the prediction interval for the value of a new world.
    between: the standard deviation of the worlds' true values.
    """

    mean: float
    interval: Interval
    new_world: Interval
    between: float


def random_effects(
    values: Sequence[float], variances: Sequence[float], confidence: float
) -> Pooled | None:
    """Pool the values of several worlds, each with the variance of its error.

    None for fewer than three worlds. Sources: the variance between worlds by R. C. Paule, J.
    Mandel, J. Res. Natl. Bur. Stand. 87 (1982) 377-385; the interval by J. Hartung, G. Knapp, Stat.
    Med. 20 (2001) 3875-3889, never narrower than the worlds' own errors allow (C. Röver, G. Knapp,
    T. Friede, BMC Med. Res. Methodol. 15:99, 2015); the prediction interval by J. P. T. Higgins et
    al., J. R. Statist. Soc. A 172 (2009) 137-159.
    """
    y, v, k = np.asarray(values, float), np.asarray(variances, float), len(values)
    if k < 3:
        return None

    def excess(tau2: float) -> float:
        weights = 1 / (v + tau2)
        return float(weights @ (y - weights @ y / weights.sum()) ** 2 - (k - 1))

    v = np.maximum(v, 1e-12)  # a world without an error would have all the weight
    widest = k * float(np.var(y)) + float(v.max())
    tau2 = float(optimize.brentq(excess, 0, widest)) if excess(0) > 0 else 0.0
    weights = 1 / (v + tau2)
    mean = float(weights @ y / weights.sum())
    spread = float(weights @ (y - mean) ** 2 / (k - 1))
    squared = max(1.0, spread) / weights.sum()  # worlds may agree by luck more than errors allow
    tail = (1 + confidence) / 2
    half = special.stdtrit(k - 1, tail) * np.sqrt(squared)
    wide = special.stdtrit(k - 2, tail) * np.sqrt(tau2 + squared)
    return Pooled(
        mean, Interval(mean - half, mean + half), Interval(mean - wide, mean + wide), tau2**0.5
    )


def world_rows(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """R and net R of each recipe, ablated mask and world, from {world: its recovery.csv}."""
    rows = []
    for world, table in sorted(tables.items()):
        chosen = table[(table.seed.astype(str) == ALL_SEEDS) & (table.task == MACRO)]
        for measure in MEASURES:
            estimable = chosen[chosen[measure].notna()]
            for row in estimable.to_dict("records"):
                ends = (row[measure + end] for end in ("", "_low", "_high"))
                rows.append([row["recipe"], row["mask"], measure, world, *ends])
    frame = pd.DataFrame(rows, columns=list(WORLD_COLUMNS))
    return frame.sort_values(["recipe", "mask", "measure", "world"], ignore_index=True)


def pooled_rows(rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row for each recipe, mask and measure of `world_rows`, with its `random_effects`.

    The variance of a world's value is that of a normal law with the same interval.
    """
    z = float(special.ndtri((1 + confidence) / 2))
    pooled = []
    for key, group in rows.groupby(["recipe", "mask", "measure"]):
        variances = ((group.high - group.low) / (2 * z)) ** 2
        found = random_effects(group.value.tolist(), variances.tolist(), confidence)
        if found:
            numbers = (found.mean, *found.interval, *found.new_world, found.between)
            pooled.append([*key, len(group), *(round(n, 9) for n in numbers)])
    return pd.DataFrame(pooled, columns=list(POOLED_COLUMNS))
