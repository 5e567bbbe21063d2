"""Compares two snapshots: configuration, code, packages, data, hardware and accuracies.

Differences of accuracies are paired: both snapshots are compared on the same items and seeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from ablation.analysis.conditions import Condition, UnpairedItems, paired, read_conditions
from ablation.analysis.metrics import known_metric
from ablation.analysis.statistics import paired_means
from ablation.console.tables import TextConsole
from ablation.data.generation.rows import ROWS, TEXTS
from ablation.lineage.snapshots import Snapshot, open_snapshot
from ablation.provenance.manifests import verify_outputs
from ablation.vocabulary.generation import EXACT_MATCH, is_generated, macros, metric_of_row
from ablation.vocabulary.protocols import ALL_SEEDS, MACROS

SETS = ("code", "packages", "hardware")  # fields of a snapshot that hold sets of values
ABSENT = "-"
DEFAULT_METRIC = "acc"  # for results without a recovery table


def diff(first: str, second: str, study: str | None = None, configfile: str | None = None) -> dict:
    """The differences between two folders of results, two pushes, or two commits.

    Returns `sides` (the names of both snapshots), `config` ({key: [{before, after, results}]}),
    `code`, `packages`, `hardware` ({name: [before, after]}), `data` ({file: [sha256, sha256]}),
    `only` ({name of a snapshot: results that the other lacks}), `changed` (results whose files
    differ), `compared` (number of results in both) and `numbers` (see `accuracy_changes`). When a
    commit is compared with results, `code`, `packages`, `hardware` and `data` are restricted to
    names that both have. Raises NothingToCompare, StaleInput and StoreError.
    """
    with ExitStack() as stack:
        a, b = (stack.enter_context(open_snapshot(n, study, configfile)) for n in (first, second))
        both = sorted(set(a.outputs) & set(b.outputs))
        # a commit has all stages and locks all packages, results only those that made them
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
            "numbers": accuracy_changes(a, b),
        }


def _unequal(a: Mapping, b: Mapping, shared: bool = False) -> dict[str, list]:
    return {
        key: [_plain(a.get(key)), _plain(b.get(key))]
        for key in sorted({*a} & {*b} if shared else {*a, *b})
        if not _alike(a.get(key), b.get(key), shared)
    }


def _alike(a: object, b: object, shared: bool) -> bool:
    """Whether two values agree; with `shared`, whether one set contains the other."""
    if shared and isinstance(a, set) and isinstance(b, set):
        return a <= b or b <= a
    return a == b


def _plain(value: object) -> object:
    if isinstance(value, set):
        return ", ".join(sorted(value))
    return ABSENT if value is None else value


def _config(a: Snapshot, b: Snapshot) -> dict[str, list[dict]]:
    """{key: [{before, after, results}]}, with one entry for the same change of several results.

    A result that only one snapshot has is compared with one of another seed in the other snapshot.
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


# ---- accuracies ---------------------------------------------------------------------------------


def accuracy_changes(a: Snapshot, b: Snapshot, confidence: float = 0.95) -> list[dict]:
    """The accuracies of every recipe, mask and task that both snapshots have scored.

    There is one row for each task and macro, and for each filter of a generation task, over the
    seeds that both have, with `stage`, `recipe`, `mask`, `seeds`, `task`, `n`, `before`, `after`,
    `difference`, `low`, `high`, `p` and `identical`, which is true if the sample rows are byte for
    byte the same. If the items cannot be paired, the row has the reason in `unpaired` and no
    interval. The metric is that of the first snapshot's recovery table, or `acc` without one;
    generated texts have `exact_match`.

    Raises UnknownMetric, and StaleInput for sample rows that differ from their manifest.
    """
    metric = _metric(a)
    groups: dict[tuple, list[str]] = {}
    for key in sorted(set(a.manifests) & set(b.manifests)):
        manifest = a.manifests[key]
        if _rows_of(manifest) and "mask" in manifest:  # a bridge has no masks
            name = (manifest["fingerprint"]["stage"], manifest.get("recipe"), manifest["mask"])
            groups.setdefault(name, []).append(key)
    rows = []
    for (stage, recipe, mask), keys in groups.items():
        known = {"stage": stage, "recipe": recipe, "mask": mask}
        known["seeds"] = [a.manifests[key].get("seed") for key in keys if recipe]
        file = _rows_of(a.manifests[keys[0]])
        sums = [[s.outputs[key].get(file) for key in keys] for s in (a, b)]
        paths = [_verified_manifests(snapshot, keys) for snapshot in (a, b)]
        before = after = read_conditions(paths[0])
        if sums[0] != sums[1]:
            after = read_conditions(paths[1])
        rows += [
            known | row | {"identical": sums[0] == sums[1]}
            for row in _rows(before, after, metric, confidence)
        ]
    return rows


def _rows_of(manifest: Mapping) -> str:
    """The file with the sample rows of a manifest, or of generated texts; "" if it has none."""
    return next((name for name in ("samples.parquet", ROWS) if name in manifest["outputs"]), "")


def _verified_manifests(snapshot: Snapshot, keys: list[str]) -> dict[str, dict]:
    """{path: manifest} of some results. Raises StaleInput if their sample rows have changed."""
    if snapshot.home is None:
        raise ValueError(f"{snapshot.name} is a commit, which holds no sample rows")
    manifests = {str(snapshot.home / key): snapshot.manifests[key] for key in keys}
    for path, manifest in manifests.items():
        texts = {TEXTS} if Path(path).with_name(TEXTS).is_file() else set()  # an archive has none
        verify_outputs(path, manifest, {"samples.parquet", ROWS, "evaluation.json", *texts})
    return manifests


def _metric(snapshot: Snapshot) -> str:
    table = snapshot.manifests.get("recovery.manifest.json")
    name = table["fingerprint"]["config"]["metric"] if table else DEFAULT_METRIC
    return known_metric(name).name


def _rows(
    before: list[Condition], after: list[Condition], metric: str, confidence: float
) -> list[dict]:
    metric = EXACT_MATCH if before[0].generated else metric
    tasks = [t for t in before[0].correct[metric] if t in after[0].correct[metric]]
    scores, unpaired = {}, {}
    for task in tasks:
        try:
            stacked = paired([*before, *after], metric_of_row(task, metric), task)
            scores[task] = stacked.reshape(2, len(before), -1)
        except UnpairedItems as error:
            unpaired[task] = str(error)
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
            float(np.mean([c.correct[metric_of_row(task, metric)][task].mean() for c in part]))
            for part in (before, after)
        ]
        rows.append({"task": task, "before": values[0], "after": values[1], "unpaired": why})
    return rows


# ---- on a terminal ------------------------------------------------------------------------------


def print_diff(found: Mapping, every_task: bool = False) -> None:
    """Print the result of `diff`: one line for each difference, and one for all that is equal.

    Of the accuracies, those of macros and generation tasks are printed, or every task with
    `every_task`.
    """
    console = TextConsole()
    a, b = found["sides"]
    console.print(f"{a} -> {b}", style="bold")
    for key, changes in found["config"].items():
        for change in changes:
            where = _where(change["results"])
            line = f"config    {key}: {change['before']} -> {change['after']}  {where}"
            console.print(line)
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
        kinds.remove("hardware")  # a commit has no hardware
    same = [kind for kind in kinds if not found[kind]]
    if same:
        console.print(f"the same: {', '.join(same)}")
    if not found["compared"]:
        console.print(
            "no results in common (a commit holds no results: push them, and compare pushes)"
        )
        return
    changed = found["changed"]
    console.print(f"{found['compared'] - len(changed)} of {found['compared']} results identical")
    rows = [
        row
        for row in found["numbers"]
        if every_task or row["task"] in MACROS or is_generated(row["task"]) or "unpaired" in row
    ]
    changed_rows = [row for row in rows if not row["identical"]]
    if changed_rows:
        console.print(_table(changed_rows))
    if found["numbers"] and not changed_rows:
        console.print("numbers: identical")


def _where(results: list[str]) -> str:
    first = ", ".join(results[:2])
    return f"({first}{f' and {len(results) - 2} more' if len(results) > 2 else ''})"


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
