"""Traces one cell of a table to its conditions, runs, data, code and cost.

Every manifest and file on the way is hashed again, and every cell of the row is computed again from
the sample rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ablation.analysis.conditions import Condition
from ablation.analysis.published import PUBLISHED_SOURCE
from ablation.analysis.recovery_columns import COLUMN
from ablation.data.generation.rows import ROWS
from ablation.lineage.accept import unchecked_behind
from ablation.lineage.lineage import check_input, lineage, run_beside
from ablation.lineage.recomputed import check_row, mean_accuracies, read_scored
from ablation.lineage.verify import folder_above_results
from ablation.provenance.files import sha256_file
from ablation.provenance.manifests import (
    StaleInput,
    load_manifest,
    verify_outputs,
)
from ablation.provenance.next_actions import command_for
from ablation.provenance.run_records import sum_runs
from ablation.provenance.tables import UNCHECKED_COLUMN, InvalidTable, read_table
from ablation.vocabulary.catalogue import FIRST, MARKED
from ablation.vocabulary.generation import is_generated
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import ALL_SEEDS

LETTERS = {
    "baseline": "B",
    "ablated": "A",
    "after": "P",
    "control_causal": "C",
    "control_ablated": "D",
}
ROLES = (*LETTERS, "after_against")  # the conditions of a row, in the order of the report
# The stages of the tables whose columns are those of recovery.csv.
TABLES_WITH_ROLES = {FIRST.tables[name].made_by for name in ("recovery", "published")}


class CannotTrace(ValueError):
    """The table has no such cell; the message lists what it has."""


def trace(
    table: str | Path, where: Mapping[str, str], column: str, ledger: Path | None = None
) -> dict:
    """The cell of `column` in the only row that matches `where`, and everything it was made from.

    Returns `cell` (table, row, column, value, formula), `made_by` (the manifest of the table),
    `conditions` ({role: paths of manifests}), `accuracies` (recomputed, {role: mean over the
    seeds}), `manifests` (as `lineage` returns them), `unchecked` (stages whose code was accepted
    without a reproduction) and `totals`. Raises CannotTrace for a row or column that does not
    exist, and StaleInput for a file that is not as it was made.
    """
    table = Path(table)
    row = find_row(table, where, column)
    path, root = _table_manifest(table, row)
    manifest = load_manifest(root / path)
    verify_outputs(root / path, manifest, {table.name})
    if manifest["fingerprint"]["stage"] in MARKED:
        _check_mark(table, row, manifest, root)
    known = COLUMN.get(column)
    roles, formula = (known.roles, known.formula) if known else (ROLES, None)
    chosen = {} if row.get("source") == PUBLISHED_SOURCE else _upstream(path, row, root)
    scored = read_scored(chosen, root)
    if manifest["fingerprint"]["stage"] in TABLES_WITH_ROLES:
        check_row(table.name, row, manifest, list(scored.values()), root)
        chosen = {p: role for p, role in chosen.items() if role is None or role in roles}
    recorded = {below: _recorded(path, below, root) for below in chosen}
    nodes = lineage(recorded, path, root, ledger)
    # no machine is rented for a table, so it has no attempts
    own: dict = {"run": run_beside(root / path), "attempts": []}
    conditions: dict[str, list[str]] = {}
    order = [*ROLES, None]
    for below, role in sorted(chosen.items(), key=lambda item: (order.index(item[1]), item[0])):
        conditions.setdefault(role or nodes[below]["stage"], []).append(below)
    return {
        "cell": {
            "table": table.as_posix(),
            "row": {k: row[k] for k in dict.fromkeys((*KEYS, *where)) if row.get(k)},
            "column": column,
            "value": row[column],
            "formula": formula,
        },
        "made_by": {
            "manifest": path,
            "sha256": sha256_file(root / path),
            **_code(manifest),
            "run": own["run"],
        },
        "conditions": conditions,
        "accuracies": _accuracies(conditions, scored, row, manifest["fingerprint"]["config"]),
        "manifests": nodes,
        "unchecked": unchecked_behind(root / path, root),
        "totals": sum_runs([own, *nodes.values()]),
    }


def _check_mark(table: Path, row: Mapping[str, str], made_by: Mapping, root: Path) -> None:
    """Raise StaleInput unless a row names all unchecked stages that its table was made from."""
    behind = {stage for path in made_by["inputs"] for stage in unchecked_behind(root / path, root)}
    if missing := sorted(behind - set(row.get(UNCHECKED_COLUMN, "").split())):
        raise StaleInput(
            f"{table} has no mark `unchecked` of {', '.join(missing)}, whose code was accepted by "
            f"a reason alone.\nMake the table again: {command_for(table)}"
        )


# Columns that identify a row of some table, in the order in which messages name them.
KEYS = (
    *("source", "study", "stage", "model", "recipe", "against", "seed", "mask", "task"),
    *("step", "event", "pattern", "query", "key", "answer"),
)


def verify_table(table: Path) -> list[str]:
    """Raise StaleInput if the manifest of `table` recorded another hash.

    Returns the stages behind it whose code was accepted without a reproduction.
    """
    row = read_table(table, (), dtype=str, keep_default_na=False).iloc[0].to_dict()
    try:
        path, root = _table_manifest(table, row)
    except CannotTrace:
        return []  # a copy outside a study has no manifest
    verify_outputs(root / path, load_manifest(root / path), {table.name})
    return unchecked_behind(root / path, root)


def find_row(table: Path, where: Mapping[str, str], column: str) -> dict[str, str]:
    """The only row of `table` with the values of `where`; all cells are texts."""
    try:
        frame = read_table(table, (), dtype=str, keep_default_na=False)
    except InvalidTable as error:
        raise CannotTrace(str(error)) from None
    for name in (column, *where):
        if name not in frame:
            raise CannotTrace(f"{table} has no column {name!r}; it has {', '.join(frame.columns)}")
    for name, value in where.items():
        fitting = frame[frame[name] == value]
        if fitting.empty:
            there = ", ".join(_shortened(frame[name].unique()))
            so_far = "" if name == next(iter(where)) else " in the rows chosen so far"
            raise CannotTrace(f"{table} has no {name} {value!r}{so_far}; it has {there}")
        frame = fitting
    if len(frame) > 1:
        unlike = [k for k in frame if k not in where and frame[k].nunique() > 1]
        keys = [k for k in KEYS if k in unlike] or unlike
        choice = "; ".join(f"{k}: {', '.join(_shortened(frame[k].unique()))}" for k in keys)
        raise CannotTrace(f"{len(frame)} rows of {table} fit: choose one more of {choice}")
    return {str(name): value for name, value in frame.iloc[0].items()}


def _shortened(values: Iterable[str], most: int = 20, wide: int = 60) -> list[str]:
    """Values for a message: at most `most`, none longer than `wide`, an empty text in quotes."""
    texts = [v if v and v.isprintable() else repr(v) for v in values]
    texts = [v if len(v) <= wide else f"{v[: wide - 4]} ..." for v in texts]
    return texts if len(texts) <= most else [*texts[:most], f"... ({len(texts)} in all)"]


def _table_manifest(table: Path, row: Mapping) -> tuple[str, Path]:
    """(path of the manifest of a table, the folder that this path is relative to)."""
    home = table.resolve().parent
    for path in sorted(home.glob("*.manifest.json")):
        manifest = load_manifest(path)
        if table.name in manifest["outputs"]:
            # a table is in results/<study>/, or in the folder of a bridge below it
            root = folder_above_results(home)
            return path.relative_to(root).as_posix(), root
    named = home / row.get("study", "") / table.name  # results/recovery.csv is a copy
    if row.get("study") and named.is_file():
        if sha256_file(named) != sha256_file(table):
            raise StaleInput(
                f"{table} is not the table of {row['study']}: {named} holds other bytes. Make "
                f"it again: {command_for(table, study=row['study'])}"
            )
        for path in home.glob(f"{row['study']}/*.manifest.json"):
            if table.name in load_manifest(path)["outputs"]:
                return path.relative_to(home.parent).as_posix(), home.parent
    raise CannotTrace(
        f"no manifest beside {table} lists it; a table in results/<study>/ was expected"
    )


def _upstream(path: str, row: Mapping, root: Path) -> dict[str, str | None]:
    """{manifest: its role} for the manifests that a row of the table at `path` is made from."""
    chosen: dict[str, str | None] = {}
    for below, recorded in load_manifest(root / path)["inputs"].items():
        manifest = load_manifest(root / below)
        check_input(below, sha256_file(root / below), recorded, path)
        if _is_table(manifest):  # a table that is made from a table
            chosen |= _upstream(below, row, root)
        elif _fits(manifest, row):
            chosen[below] = _role(manifest, row)
    return chosen


def _is_table(manifest: Mapping) -> bool:
    return any(name.endswith(".csv") for name in manifest["outputs"])


def _recorded(path: str, below: str, root: Path) -> str:
    """The hash of `below` that the table at `path`, or a table among its inputs, recorded."""
    inputs = load_manifest(root / path)["inputs"]
    if below in inputs:
        return inputs[below]
    return next(_recorded(p, below, root) for p in inputs if _is_table(load_manifest(root / p)))


def _fits(manifest: Mapping, row: Mapping) -> bool:
    """Whether a row can be made from a result; a label that the row lacks fits every result."""
    recipe, mask, seed = (manifest.get(key) for key in ("recipe", "mask", "seed"))
    texts = ROWS in manifest["outputs"]
    if mask is not None and "task" in row and is_generated(row["task"]) != texts:
        return False  # choices and texts of one model have manifests of their own
    recipes = {row[key] for key in ("recipe", "against", "control") if row.get(key)}
    if not recipes and "model" in row:  # in samples.csv this is a recipe, or the base
        recipes = {row["model"]}
    if recipe is None and mask is None:  # data, or cells of a bridge
        own = [key for key in ("regime", "seed") if key in manifest]
        return all(row.get(key, "") in ("", ALL_SEEDS, str(manifest[key])) for key in own)
    if "stage" in row and row["stage"] != manifest["fingerprint"]["stage"]:
        return False  # a row of per_task.csv is one condition
    if recipe is None:
        return "mask" not in row or mask == row["mask"] or ("stage" not in row and mask == CAUSAL)
    same_mask = mask is None or row.get("mask", mask) == mask
    same_mask |= mask == CAUSAL and recipe == row.get("control")  # C of the control
    return (
        same_mask
        and (not recipes or recipe in recipes)
        and row.get("seed", "") in ("", ALL_SEEDS, str(seed))
    )


def _role(manifest: Mapping, row: Mapping) -> str | None:
    """The role of a condition in a row; None for other results, and in a row of one condition."""
    if "mask" not in manifest or "stage" in row:
        return None
    if manifest.get("recipe") is None:
        return "baseline" if manifest["mask"] == CAUSAL else "ablated"
    if manifest["recipe"] == row.get("recipe"):
        return "after"
    if manifest["recipe"] == row.get("control"):
        return "control_causal" if manifest["mask"] == CAUSAL else "control_ablated"
    return "after_against"


def _code(manifest: Mapping) -> dict:
    fingerprint = manifest["fingerprint"]
    return {key: fingerprint[key] for key in ("stage", "code", "config", "packages")}


def _accuracies(
    conditions: Mapping[str, list[str]], scored: Mapping[str, Condition], row: Mapping, config: dict
) -> dict[str, float]:
    """{role: mean accuracy over its seeds} from the sample rows; config: that of the table."""
    metric, task = config.get("metric") or config.get("named", {}).get("metric"), row.get("task")
    if not (metric and task):
        return {}
    roles = {
        role: [scored[path] for path in paths]
        for role, paths in conditions.items()
        if scored.keys() >= set(paths)
    }
    return mean_accuracies(roles, task, metric)
