"""Measures how often the intervals of R and net R contain the truth if items belong to clusters.

    python benchmarks/coverage_clusters.py [--studies 1000] [--write docs/statistics.md]

Whether an item is answered rightly is a normal variable above a threshold. Half of its variance
belongs to the item and .3 to the item under that condition; where there are clusters, all items of
a cluster share half of either part. `spread`² belongs to the seed, the rest to chance. C and D are
scores of one model, so they share their seeds.
"""

import sys
from itertools import product

import numpy as np
from coverage import CONFIDENCE, ITEM, OWN, SEEDS, measure
from scipy.special import ndtri

from ablation.analysis.statistics import paired_means

B, A, P, C, D = range(5)  # base without and under the ablation, recipe, control without and under
RATIOS = {"R": ((P, A), (B, A)), "net R": ((P, D), (C, D))}
DAMAGES, CLUSTERS, SPREADS = (0.1, 0.2, 0.4), (16, 40, None), (0.0, 0.05, 0.15)
CELLS = list(product(DAMAGES, CLUSTERS, SPREADS))
ITEMS, TASKS, SHARED = 300, 5, 0.5
BASE, RETURNED, FINETUNED = 0.9, 0.6, 0.02  # B; R; by how much finetuning moves C and D


def accuracies(damage):
    """B, A, P, C and D."""
    ablated = BASE - damage
    return np.array(
        [BASE, ablated, ablated + RETURNED * damage, BASE + FINETUNED, ablated + FINETUNED]
    )


def simulate(damage, clusters, spread, rng):
    """The scores of one task, [conditions, seeds, items], and the clusters of its items."""
    groups = None if clusters is None else rng.integers(clusters, size=ITEMS)

    def of_items(*shape):
        own = rng.standard_normal((*shape, ITEMS))
        if groups is None:
            return own
        together = rng.standard_normal((*shape, clusters))[..., groups]
        return np.sqrt(SHARED) * together + np.sqrt(1 - SHARED) * own

    spreads = spread * np.array([0, 0, 1, 1, 1])[:, None]
    seeds = rng.standard_normal((5, SEEDS))
    seeds[D] = seeds[C]
    noise = rng.standard_normal((5, SEEDS, ITEMS))
    noise[:2] = noise[:2, :1]  # the base is scored once
    latent = np.sqrt(ITEM) * of_items() + np.sqrt(OWN) * of_items(5)[:, None]
    latent = latent + (spreads * seeds)[:, :, None]
    latent = latent + np.sqrt(1 - ITEM - OWN - spreads**2)[:, :, None] * noise
    return (latent + ndtri(accuracies(damage))[:, None, None] > 0) * 1, groups


def count(damage, clusters, spread, studies):
    """{(ratio, task or macro): [covered, estimable]}."""
    rng = np.random.default_rng([round(1000 * damage), clusters or 0, round(1000 * spread)])
    values = accuracies(damage)
    hits = {key: np.zeros(2, int) for key in product(RATIOS, ("task", "macro"))}
    for _ in range(studies):
        tasks = [simulate(damage, clusters, spread, rng) for _ in range(TASKS)]
        for level, used in (("task", tasks[:1]), ("macro", tasks)):
            means = paired_means([s for s, _ in used], CONFIDENCE, [g for _, g in used])
            for name, (top, bottom) in RATIOS.items():
                truth = (values[top[0]] - values[top[1]]) / (values[bottom[0]] - values[bottom[1]])
                found = means.ratio(top, bottom).interval
                if found is not None:
                    hits[name, level] += [found.low <= truth <= found.high, 1]
    return hits


def table(results, studies):
    """Coverage in % of every cell; in brackets the per cent of studies with an interval."""
    results = dict(zip(CELLS, results, strict=True))
    heads = " | ".join(f"spread {spread:g}" for spread in SPREADS)
    lines = [f"| | of | damage | clusters | {heads} |", "|---" * (4 + len(SPREADS)) + "|"]
    for (name, level), damage, clusters in product(
        product(RATIOS, ("task", "macro")), DAMAGES, CLUSTERS
    ):
        cells = []
        for spread in SPREADS:
            covered, estimable = results[damage, clusters, spread][name, level]
            share = f" ({100 * estimable / studies:.0f})" if estimable < 0.995 * studies else ""
            cells.append(f"{100 * covered / max(1, estimable):.1f}{share}")
        lines.append(
            f"| {name} | {level} | {damage:g} | {clusters or 'none'} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main() -> int:
    return measure(
        __doc__.splitlines()[0],
        CELLS,
        count,
        f"cell, {SEEDS} seeds, {ITEMS} items a task, {TASKS} tasks in a macro",
        table,
        "coverage of clusters",
    )


if __name__ == "__main__":
    sys.exit(main())
