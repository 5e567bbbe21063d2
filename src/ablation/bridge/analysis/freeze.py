"""The bars of a freeze: cells on seeds and a world that were fixed before anybody saw a result.

No torch.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ablation.bridge.analysis.comparisons import compare, compare_one_seed
from ablation.bridge.analysis.samples import Samples
from ablation.config.bridge_blocks import Claims, Freeze
from ablation.vocabulary.bridge import FORWARD, KEEPS_TARGET


def chance_of_passing(bad_share: float, cells: int) -> float:
    """The probability that all of `cells` independent cells are good.

    `bad_share` is the share of a recipe's cells that are bad: at .1 it is .729 for three cells and
    .185 for sixteen.
    """
    return (1 - bad_share) ** cells


def freeze_table(
    samples: Samples, freeze: Freeze | None, claims: Claims, study: str, confidence: float
) -> pd.DataFrame:
    """One row a frozen cell: its accuracy, its bar, and whether it passes.

    `chance_of_a_bad_recipe` is the probability that a recipe of which `bad_share` of all cells fail
    passes the bar of its regime, which all of its cells must pass.
    """
    if freeze is None:
        return pd.DataFrame(columns=["study", "regime", "seed", "passes"])
    rows, chance = [], chance_of_passing(freeze.bad_share, len(freeze.seeds))
    for regime, frozen in freeze.cells.items():
        k, clusters = frozen.soft_tokens, samples.clusters(regime)
        cells = samples.right(regime, claims.all_fixes, k, seeds=freeze.seeds)
        alone = {
            name: samples.right_alone(regime, f"{name}_alone", FORWARD)[0]
            for name in ("source", "target")
        }
        for seed, right in zip(sorted(freeze.seeds), cells, strict=True):
            p = {n: compare_one_seed(right, own, confidence, clusters) for n, own in alone.items()}
            if frozen.bar == KEEPS_TARGET:
                passes = right.mean() >= claims.share_of_target * alone["target"].mean()
            else:
                better = all(right.mean() > own.mean() for own in alone.values())
                passes = better and max(p.values()) < claims.p
            against = compare(right[None], alone["target"][None], confidence, clusters)
            rows.append(
                {
                    "study": study,
                    "regime": regime,
                    "recipe": claims.all_fixes,
                    "k": k,
                    "seed": seed,
                    "n": len(right),
                    "clusters": len(right) if clusters is None else len(np.unique(clusters)),
                    "accuracy": right.mean(),
                    **{f"{name}_alone": own.mean() for name, own in alone.items()},
                    **{f"p_{name}_alone": value for name, value in p.items()},
                    "design_effect": against["design_effect"],
                    "bar": frozen.bar,
                    "passes": str(bool(passes)).lower(),
                    "bad_share": freeze.bad_share,
                    "chance_of_a_bad_recipe": chance,
                }
            )
    return pd.DataFrame(rows)
