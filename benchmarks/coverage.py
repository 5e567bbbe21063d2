"""Measures how often the tables' 95 % intervals contain the truth, in simulated studies.

    python benchmarks/coverage.py [--studies 1000] [--workers 2] [--write docs/statistics.md]

Whether an item is answered rightly is a normal variable above a threshold: half of its variance
belongs to the item, .3 to the item under that condition, `spread`² to the seed, the rest to chance.
So accuracies over all items and seeds are the thresholds' own, and those of one seed are known too.
Beside the tables' intervals stand the plain bootstrap's on the same studies: percentiles of paired
resamples of items, and over seeds of seeds, then items; for R Fieller with its covariance.
"""

import argparse
import platform
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from marked import write_between
from scipy.special import ndtr, ndtri

from ablation.analysis.statistics import Interval, fieller, paired_means, wilson

CONFIDENCE, RESAMPLES, ITEM, OWN = 0.95, 1000, 0.5, 0.3
B, A, P, Q = range(4)  # base, ablated, after one recipe, after another
# The reported numbers: (name, of one seed or of all, numerator, denominator or none)
ROWS = [
    ("damage", "one", (A, B), None),
    ("gain", "one", (P, A), None),
    ("side effect", "one", (P, B), None),
    ("R", "one", (P, A), (B, A)),
    ("R - R'", "one", (P, Q), (B, A)),
    ("gain", "all", (P, A), None),
    ("side effect", "all", (P, B), None),
    ("R", "all", (P, A), (B, A)),
    ("R - R'", "all", (P, Q), (B, A)),
]
# For each regime: accuracies [conditions, tasks] and items of a task. Single tasks are the first.
MICRO = [
    [0.987, 0.9995, 0.9995, 0.9995, 0.9995],
    [0.44, 0.58, 0.41, 0.94, 0.90],
    [0.975, 0.99, 0.99, 0.995, 0.995],
    [0.35, 0.60, 0.40, 0.98, 0.90],
]
REGIMES = {
    "micro study, .997 → .65 → .99": (MICRO, 300),
    "n = 500, .70 → .36 → .50": ([[0.70] * 5, [0.36] * 5, [0.50] * 5, [0.40] * 5], 500),
    "n = 500, .70 → .65 → .68": ([[0.70] * 5, [0.65] * 5, [0.68] * 5, [0.66] * 5], 500),
}
SPREADS = (0.0, 0.05, 0.15, 0.4)
SEEDS = 3


def simulate(accuracies, n, spread, rng):
    """Per task scores [conditions, seeds, items] and the truth of each seed [conditions, seeds]."""
    scores, truths = [], []
    for right in np.array(accuracies).T:
        own_spread = np.array([0, 0, spread, spread])[:, None]
        seed = own_spread * rng.standard_normal((4, SEEDS))
        rest = np.sqrt(1 - ITEM - OWN - own_spread**2)
        latent = np.sqrt(ITEM) * rng.standard_normal(n)
        latent = latent + np.sqrt(OWN) * rng.standard_normal((4, 1, n)) + seed[:, :, None]
        noise = rng.standard_normal((4, SEEDS, n))
        noise[:2] = noise[:2, :1]  # base conditions are scored once
        threshold = ndtri(right)[:, None]
        scores.append((latent + rest[:, :, None] * noise + threshold[:, :, None] > 0) * 1)
        truths.append(ndtr((threshold + seed) / np.sqrt(1 - own_spread**2)))
    return scores, truths


def bootstrap_draws(scores, weights, seed_weights):
    """Means of resamples [conditions, resamples], in which items and seeds are drawn again."""
    draws = 0
    for task, drawn in zip(scores, weights, strict=True):
        by_seed = task.astype(np.float32) @ drawn
        draws = draws + np.einsum("csr,sr->cr", by_seed, seed_weights) / len(scores)
    return draws


def by_bootstrap(means, draws, top, bottom):
    """The interval of the plain bootstrap, or None if it is unbounded."""
    above = draws[top[0]] - draws[top[1]]
    if bottom is None:
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        return Interval(*np.quantile(above, tails))
    below = draws[bottom[0]] - draws[bottom[1]]
    up, down = (means.values[i] - means.values[j] for i, j in (top, bottom))
    return fieller(up, down, np.cov(above, below), CONFIDENCE) if down > 0 else None


def count(regime, spread, studies):
    """{(name, seeds, task or macro): [covered, estimable, covered by the bootstrap, estimable]}."""
    accuracies, n = REGIMES[regime]
    entropy = [list(REGIMES).index(regime), round(1000 * spread)]
    rng = np.random.default_rng(entropy)
    weights = [rng.multinomial(n, [1 / n] * n, size=RESAMPLES).T / n for _ in accuracies[0]]
    weights = [w.astype(np.float32) for w in weights]
    drawn_seeds = rng.multinomial(SEEDS, [1 / SEEDS] * SEEDS, size=RESAMPLES).T / SEEDS
    hits = {}

    def add(key, true, *intervals):
        row = hits.setdefault(key, np.zeros(4, int))
        for i, interval in enumerate(intervals):
            if interval is not None:
                row[2 * i : 2 * i + 2] += [interval.low <= true <= interval.high, 1]

    for _ in range(studies):
        scores, truths = simulate(accuracies, n, spread, rng)
        right = int(scores[0][B, 0].sum())
        true = accuracies[B][0]
        add(("accuracy (Wilson)", "one", "task"), true, wilson(right, n, CONFIDENCE))
        for level, chosen in (("task", slice(1)), ("macro", slice(None))):
            over_all = np.array(accuracies)[:, chosen].mean(axis=1)
            of_seed = np.mean(truths[chosen], axis=0)[:, 0]
            for seeds, kept, true in (("one", 1, of_seed), ("all", SEEDS, over_all)):
                used = [s[:, :kept] for s in scores[chosen]]
                means = paired_means(used, CONFIDENCE)
                drawn = drawn_seeds if kept > 1 else np.ones((1, RESAMPLES))
                draws = bootstrap_draws(used, weights[chosen], drawn)
                for name, rows, top, bottom in ROWS:
                    if rows != seeds:
                        continue
                    truth = true[top[0]] - true[top[1]]
                    if bottom is None:
                        found = means.difference(*top).interval
                    else:
                        truth /= true[bottom[0]] - true[bottom[1]]
                        found = means.ratio(top, bottom).interval
                    plain = by_bootstrap(means, draws, top, bottom)
                    add((name, seeds, level), truth, found, plain)
    return regime, spread, hits


def tables(results, studies):
    """One table for each regime: coverage in %, of the tables / of the plain bootstrap."""
    texts = []
    for regime in REGIMES:
        columns = [rest for name, *rest in results if name == regime]
        heads = " | ".join(f"spread {spread:g}" for spread, *_ in columns)
        lines = [f"| {regime} | of | seeds | {heads} |", "|---" * (3 + len(columns)) + "|"]
        for key in sorted(columns[0][-1], key=lambda key: key[2], reverse=True):
            cells = [_cell(hits[key], studies) for _, hits in columns]
            name, seeds, level = key
            lines.append(f"| {name} | {level} | {seeds} | {' | '.join(cells)} |")
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def _cell(row, studies):
    shown = []
    for covered, estimable in row.reshape(2, 2):
        if estimable:
            share = f" ({100 * estimable / studies:.0f})" if estimable < 0.995 * studies else ""
            shown.append(f"{100 * covered / estimable:.1f}{share}")
    return " / ".join(shown)


def machine():
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def measure(title, cells, count, what, show, mark) -> int:
    """Simulate each of `cells`, print what was found, and write it if the command line says so.

    title: of the command's help. count: called with the values of a cell and the number of studies.
    what: what one cell was made of. show: the tables, from the results and the number of studies.
    mark: the name of the marks in the file that --write names.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", type=Path, help="write the table between the marks of this file")
    arguments = parser.parse_args()
    started = time.perf_counter()
    with ProcessPoolExecutor(arguments.workers) as pool:
        running = [pool.submit(count, *cell, arguments.studies) for cell in cells]
        results = [cell.result() for cell in running]
    seconds = time.perf_counter() - started
    text = (
        f"{arguments.studies} studies a {what}; {seconds:.0f} s with {arguments.workers} processes "
        f"on {machine()}.\n\n{show(results, arguments.studies)}"
    )
    print(text)
    if arguments.write:
        write_between(arguments.write, f"<!-- {mark} -->\n", f"<!-- /{mark} -->", f"{text}\n")
    return 0


def main() -> int:
    return measure(
        __doc__.splitlines()[0],
        [(regime, spread) for regime in REGIMES for spread in SPREADS],
        count,
        f"column, {SEEDS} seeds, {RESAMPLES} resamples",
        tables,
        "coverage",
    )


if __name__ == "__main__":
    sys.exit(main())
