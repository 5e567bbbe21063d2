"""What differs between two sides: configuration, code, packages, data, hardware, and the numbers.

Differences of accuracies are paired: the same items, and the same seeds, on both sides.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ablation.conditions import Condition, UnpairedItems, paired, read_conditions
from ablation.names import ALL_SEEDS, MACROS, macros, metric_of
from ablation.provenance import verify_outputs
from ablation.sides import Side, side
from ablation.statistics import paired_means
from ablation.tables import WIDTH

SETS = ("code", "packages", "hardware")
ABSENT = "-"


def diff(first: str, second: str, study: str | None = None, configfile: str | None = None) -> dict:
    """What differs between two folders of results, two pushes, or two commits.

    Returns `sides` (their names), `config` ({key: {values before and after: [results]}}), `code`,
    `packages`, `hardware` ({name: [before, after]}), `data` ({file: [sha256, sha256]}; of a commit
    beside results these four hold what both sides know), `only`
    ({side: results that the other lacks}), `changed` (results whose files differ), `compared`
    (results on both sides) and `numbers` (see `numbers`).
    """
    with ExitStack() as stack:
        a, b = (stack.enter_context(side(n, study, configfile)) for n in (first, second))
        both = sorted(set(a.outputs) & set(b.outputs))
        # a commit locks every package and has all stages; results know those they were made by
        shared = (a.home is None) != (b.home is None)
        return {
            "sides": [a.name, b.name],
            "config": _config(a, b),
            **{kind: _unequal(getattr(a, kind), getattr(b, kind), shared) for kind in SETS},
            "data": _unequal(a.data, b.data, shared),
            "only": {
                a.name: sorted(set(a.outputs) - set(b.outputs)),
                b.name: sorted(set(b.outputs) - set(a.outputs)),
            },
            "compared": len(both),
            "changed": [key for key in both if a.outputs[key] != b.outputs[key]],
            "numbers": numbers(a, b),
        }


def _unequal(a: Mapping, b: Mapping, shared: bool = False) -> dict[str, list]:
    return {
        key: [_plain(a.get(key)), _plain(b.get(key))]
        for key in sorted({*a} & {*b} if shared else {*a, *b})
        if a.get(key) != b.get(key)
    }


def _plain(value: object) -> object:
    if isinstance(value, set):
        return ", ".join(sorted(value))
    return ABSENT if value is None else value


def _config(a: Side, b: Side) -> dict[str, list[dict]]:
    """{key: [{before, after, results}]}, the same change of many results told once.

    Results that stand on one side only are compared with the first of another seed there.
    """
    found: dict[str, dict[str, dict]] = {}
    pairs = [(result, result) for result in sorted(set(a.config) & set(b.config))]
    alone = [
        {re.sub(r"/seed\d+", "", r): r for r in sorted(set(one.config) - set(other.config))[::-1]}
        for one, other in ((a, b), (b, a))
    ]
    pairs += [(alone[0][r], alone[1][r]) for r in sorted(set(alone[0]) & set(alone[1]))]
    for result, other in pairs:
        for key, (before, after) in _unequal(a.config[result], b.config[other]).items():
            change = found.setdefault(key, {}).setdefault(
                f"{before}\0{after}", {"before": before, "after": after, "results": []}
            )
            change["results"].append(result)
    return {key: list(changes.values()) for key, changes in found.items()}


# ---- numbers ------------------------------------------------------------------------------------


def numbers(a: Side, b: Side, confidence: float = 0.95) -> list[dict]:
    """Accuracy before and after of every recipe, mask and task that both sides have scored.

    A row: `stage, recipe, mask, seeds, task, n, before, after, difference, low, high, p`; one a
    task and macro, over the seeds that both have. `identical`: the sample rows are byte for byte
    the same, so that nothing is estimated. `unpaired` instead of an interval says why the items
    could not be paired. The metric is that of the first side's recovery table, else `acc`. Raises
    StaleInput for sample rows that are not as they were made.
    """
    groups: dict[tuple, list[str]] = {}
    for key in sorted(set(a.manifests) & set(b.manifests)):
        manifest = a.manifests[key]
        if "samples.parquet" in manifest["outputs"] and "mask" in manifest:  # not of a bridge
            name = (manifest["stamp"]["stage"], manifest.get("recipe"), manifest["mask"])
            groups.setdefault(name, []).append(key)
    metric = _metric(a)
    rows = []
    for (stage, recipe, mask), keys in groups.items():
        known = {"stage": stage, "recipe": recipe, "mask": mask}
        known["seeds"] = [a.manifests[key].get("seed") for key in keys if recipe]
        sums = [[s.outputs[key]["samples.parquet"] for key in keys] for s in (a, b)]
        for each in (a, b):
            for key in keys:  # numbers are read from these rows: they must be those of the manifest
                verify_outputs(each.home / key, each.manifests[key], {"samples.parquet"})
        before = read_conditions({str(a.home / key): a.manifests[key] for key in keys})
        after = before
        if sums[0] != sums[1]:
            after = read_conditions({str(b.home / key): b.manifests[key] for key in keys})
        rows += [
            known | row | {"identical": sums[0] == sums[1]}
            for row in _rows(before, after, metric, confidence)
        ]
    return rows


def _metric(a: Side) -> str:
    table = a.manifests.get("recovery.manifest.json")
    return table["stamp"]["config"]["metric"] if table else "acc"


def _rows(
    before: list[Condition], after: list[Condition], metric: str, confidence: float
) -> list[dict]:
    tasks = [t for t in before[0].correct[metric] if t in after[0].correct[metric]]
    scores, unpaired = {}, {}
    for task in tasks:
        try:
            stacked = paired([*before, *after], metric_of(task, metric), task)
            scores[task] = stacked.reshape(2, len(before), -1)
        except UnpairedItems as fault:
            unpaired[task] = str(fault)
    same_tasks = set(before[0].correct[metric]) == set(after[0].correct[metric]) == set(scores)
    groups = {task: [task] for task in scores} | (macros(scores) if same_tasks else {})
    rows = []
    for task, names in groups.items():
        means = paired_means([scores[name] for name in names], confidence)
        found = means.difference(1, 0)
        rows.append(
            {
                "task": task,
                "n": sum(scores[name].shape[2] for name in names),
                "before": float(means.values[0]),
                "after": float(means.values[1]),
                "difference": found.value,
                "low": float(found.interval.low),
                "high": float(found.interval.high),
                "p": float(found.p),
            }
        )
    for task, why in unpaired.items():
        values = [
            float(np.mean([c.correct[metric_of(task, metric)][task].mean() for c in part]))
            for part in (before, after)
        ]
        rows.append({"task": task, "before": values[0], "after": values[1], "unpaired": why})
    return rows


# ---- on a terminal ------------------------------------------------------------------------------


def show(found: Mapping, every_task: bool = False) -> None:
    """Print what `diff` returned: what is equal in a word, what differs line by line."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    a, b = found["sides"]
    console.print(f"[bold]{a}[/] -> [bold]{b}[/]")
    for key, changes in found["config"].items():
        for change in changes:
            where = _where(change["results"])
            told = f"config    {key}: {change['before']} -> {change['after']}  {where}"
            console.print(told, markup=False)
    for kind in SETS:
        for name, (before, after) in found[kind].items():
            if kind == "code":
                before, after = before[:12], after[:12]
            console.print(f"{kind:<9} {name}: {before} -> {after}")
    for name, (before, after) in found["data"].items():
        console.print(f"data      {name}: {before[:12]} -> {after[:12]}")
    for name, results in found["only"].items():
        if results:
            console.print(f"only in {name}: {_where(results)}")
    kinds = ["config", *SETS, "data"]
    if not found["compared"]:
        kinds.remove("hardware")  # a commit has none
    same = [kind for kind in kinds if not found[kind]]
    if same:
        console.print(f"the same: {', '.join(same)}")
    if not found["compared"]:
        console.print("no results in common (a commit holds none: push them, and compare pushes)")
        return
    changed = found["changed"]
    console.print(f"{found['compared'] - len(changed)} of {found['compared']} results identical")
    rows = [r for r in found["numbers"] if every_task or r["task"] in MACROS or "unpaired" in r]
    unlike = [row for row in rows if not row["identical"]]
    if unlike:
        console.print(_table(unlike))
    if found["numbers"] and not unlike:
        console.print("numbers: identical")


def _where(results: list[str]) -> str:
    shown = ", ".join(results[:2])
    return f"({shown}{f' and {len(results) - 2} more' if len(results) > 2 else ''})"


def _table(rows: list[Mapping]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("stage", "recipe", "seed", "mask", "task", "n"):
        table.add_column(head, no_wrap=True)
    for head in ("before", "after", "difference, paired", "p"):
        table.add_column(head, justify="right")
    for row in rows:
        seeds = row["seeds"]
        seed = f"{ALL_SEEDS} {len(seeds)}" if len(seeds) > 1 else str(*seeds)
        if "unpaired" in row:
            interval, p = f"not paired: {row['unpaired']}", ""
        else:
            interval = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            p = "< .001" if row["p"] < 0.001 else f"{row['p']:.3f}"
        known = (row["stage"], row["recipe"] or "base", seed, row["mask"], row["task"])
        values = (f"{row['before']:.3f}", f"{row['after']:.3f}", interval, p)
        table.add_row(*known, str(row.get("n", "")), *values)
    return table
