"""From one cell of a table to all that it was made from: conditions, runs, data, code and cost.

Nothing is believed: every manifest and file on the way is hashed again, and the accuracies behind
the cell are computed again from the sample rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ablation.conditions import read_conditions
from ablation.lineage import check_input, lineage, run_beside, totals
from ablation.metrics import accuracies
from ablation.names import ALL_SEEDS, metric_of
from ablation.provenance import StaleInput, sealed_manifest, sha256_file, verify_outputs
from ablation.tables import NoTable, read_table

ROLES = {  # which scored conditions a column of a recovery table stands on, and how
    "baseline": (("baseline",), "B"),
    "ablated": (("ablated",), "A"),
    "after": (("after",), "P"),
    "damage": (("baseline", "ablated"), "A - B"),
    "gain": (("ablated", "after"), "P - A"),
    "side_effect": (("baseline", "after"), "P - B"),
    "retention": (("baseline", "after"), "P / B"),
    "recovery_ratio": (("baseline", "after"), "P / B"),
    "recovered": (("baseline", "ablated", "after"), "(P - A) / (B - A)"),
}
LETTERS = {"baseline": "B", "ablated": "A", "after": "P"}


class CannotTrace(ValueError):
    """No such cell; the message says what there is."""


def trace(
    table: str | Path, where: Mapping[str, str], column: str, ledger: Path | None = None
) -> dict:
    """The cell of `column` in the one row that `where` fits, and what it was made from.

    Returns `cell` (table, row, column, value, formula), `conditions` ({role: paths of manifests}),
    `accuracies` (recomputed, {role: mean over the seeds}), `manifests` (ablation.lineage) and
    `totals`. Raises CannotTrace for a row or column that is not there, StaleInput for anything on
    the way that is not as it was made.
    """
    table = Path(table)
    row = find_row(table, where, column)
    path, root = _table_manifest(table, row)
    manifest = sealed_manifest(root / path)
    verify_outputs(root / path, manifest, {table.name})
    roles = ROLES.get(_stem(column), ((*LETTERS, "after_against"), None))
    chosen = {} if row.get("source") == "published" else _upstream(path, row, root)
    if manifest["stamp"]["stage"] in ("recovery", "published"):
        chosen = {p: role for p, role in chosen.items() if role is None or role in roles[0]}
    recorded = {below: _recorded(path, below, root) for below in chosen}
    nodes = lineage(recorded, path, root, ledger)
    own = {"run": run_beside(root / path), "attempts": []}  # no machine is rented for a table
    conditions: dict[str, list[str]] = {}
    order = [*LETTERS, "after_against", None]
    for below, role in sorted(chosen.items(), key=lambda item: (order.index(item[1]), item[0])):
        conditions.setdefault(role or nodes[below]["stage"], []).append(below)
    return {
        "cell": {
            "table": table.as_posix(),
            "row": {k: row[k] for k in dict.fromkeys((*KEYS, *where)) if row.get(k)},
            "column": column,
            "value": row[column],
            "formula": roles[1],
        },
        "made_by": {
            "manifest": path,
            "sha256": sha256_file(root / path),
            **_code(manifest),
            "run": own["run"],
        },
        "conditions": conditions,
        "accuracies": _recomputed(conditions, nodes, row, manifest, root),
        "manifests": nodes,
        "totals": totals([own, *nodes.values()]),
    }


KEYS = ("source", "study", "stage", "model", "recipe", "against", "seed", "mask", "task")
KEYS += ("step", "event", "pattern", "query", "key", "answer")


def verify_table(table: Path) -> None:
    """Raise StaleInput when a manifest of its study knows other bytes of `table`."""
    row = read_table(table, (), dtype=str, keep_default_na=False).iloc[0].to_dict()
    try:
        path, root = _table_manifest(table, row)
    except CannotTrace:
        return  # a copy, somewhere
    verify_outputs(root / path, sealed_manifest(root / path), {table.name})


def find_row(table: Path, where: Mapping[str, str], column: str) -> dict[str, str]:
    """The one row of `table` that `where` fits, cells as text."""
    try:
        frame = read_table(table, (), dtype=str, keep_default_na=False)
    except NoTable as fault:
        raise CannotTrace(str(fault)) from None
    for name in (column, *where):
        if name not in frame:
            raise CannotTrace(f"{table} has no column {name!r}; it has {', '.join(frame.columns)}")
    for name, value in where.items():
        fitting = frame[frame[name] == value]
        if fitting.empty:
            there = ", ".join(_few(frame[name].unique()))
            so_far = "" if name == next(iter(where)) else " in the rows chosen so far"
            raise CannotTrace(f"{table} has no {name} {value!r}{so_far}; it has {there}")
        frame = fitting
    if len(frame) > 1:
        unlike = [k for k in frame if k not in where and frame[k].nunique() > 1]
        told = [k for k in KEYS if k in unlike] or unlike
        choice = "; ".join(f"{k}: {', '.join(_few(frame[k].unique()))}" for k in told)
        raise CannotTrace(f"{len(frame)} rows of {table} fit: say one more of {choice}")
    return frame.iloc[0].to_dict()


def _few(values, most: int = 20, wide: int = 60) -> list[str]:
    """Values as an error tells them: not too many, none too long, the empty one visible."""
    told = [v if v and v.isprintable() else repr(v) for v in values]
    told = [v if len(v) <= wide else f"{v[: wide - 4]} ..." for v in told]
    return told if len(told) <= most else [*told[:most], f"... ({len(told)} in all)"]


def _stem(column: str) -> str:
    for suffix in ("_low", "_high", "_p", "_manifest", "_status"):
        column = column.removesuffix(suffix)
    return column


def _table_manifest(table: Path, row: Mapping) -> tuple[str, Path]:
    """(path of the manifest behind a table, the folder that it is relative to)."""
    home = table.resolve().parent
    for path in sorted(home.glob("*.manifest.json")):
        manifest = sealed_manifest(path)
        if table.name in manifest["outputs"]:
            # results/<study>/, or a folder below it: a bridge's
            root = next((p.parent for p in home.parents if p.name == "results"), home.parents[1])
            return path.relative_to(root).as_posix(), root
    named = home / row.get("study", "") / table.name  # results/recovery.csv: a copy
    if row.get("study") and named.is_file():
        if sha256_file(named) != sha256_file(table):
            raise StaleInput(
                f"{table} is not the table of {row['study']}: {named} holds other bytes. Make it "
                f"again: snakemake --cores all --force {table}"
            )
        path = next(
            (p for p in home.glob(f"{row['study']}/*.manifest.json")
             if table.name in sealed_manifest(p)["outputs"]), None,
        )  # fmt: skip
        if path:
            return path.relative_to(home.parent).as_posix(), home.parent
    raise CannotTrace(f"no manifest beside {table} lists it: is it a table of a study's results?")


def _upstream(path: str, row: Mapping, root: Path) -> dict[str, str | None]:
    """{manifest: its role} of those that a row of the table at `path` is made from."""
    chosen: dict[str, str | None] = {}
    for below, recorded in sealed_manifest(root / path)["inputs"].items():
        manifest = sealed_manifest(root / below)
        check_input(below, sha256_file(root / below), recorded, path)
        if _is_table(manifest):  # a table over a table
            chosen |= _upstream(below, row, root)
        elif _fits(manifest, row):
            chosen[below] = _role(manifest, row)
    return chosen


def _is_table(manifest: Mapping) -> bool:
    return any(name.endswith(".csv") for name in manifest["outputs"])


def _recorded(path: str, below: str, root: Path) -> str:
    """The hash of `below` as the table at `path` read it, or a table that it was made from."""
    inputs = sealed_manifest(root / path)["inputs"]
    if below in inputs:
        return inputs[below]
    return next(_recorded(p, below, root) for p in inputs if _is_table(sealed_manifest(root / p)))


def _fits(manifest: Mapping, row: Mapping) -> bool:
    """Whether a result can be in a row with these labels; what a row does not say fits all."""
    recipe, mask, seed = (manifest.get(key) for key in ("recipe", "mask", "seed"))
    recipes = {row[key] for key in ("recipe", "against") if key in row}
    if not recipes and "model" in row:  # samples.csv: a recipe, or the base
        recipes = {row["model"]}
    if recipe is None and mask is None:  # data, or a bridge's cells
        own = [key for key in ("regime", "seed") if key in manifest]
        return all(row.get(key, "") in ("", ALL_SEEDS, str(manifest[key])) for key in own)
    if "stage" in row and row["stage"] != manifest["stamp"]["stage"]:
        return False  # per_task.csv has a row a condition
    if recipe is None:
        return "mask" not in row or mask == row["mask"] or ("stage" not in row and mask == "causal")
    same_mask = mask is None or row.get("mask", mask) == mask
    return (
        same_mask
        and (not recipes or recipe in recipes)
        and row.get("seed", "") in ("", ALL_SEEDS, str(seed))
    )


def _role(manifest: Mapping, row: Mapping) -> str | None:
    if "mask" not in manifest or "stage" in row:
        return None
    if manifest.get("recipe") is None:
        return "baseline" if manifest["mask"] == "causal" else "ablated"
    return "after" if manifest["recipe"] == row.get("recipe") else "after_against"


def _code(manifest: Mapping) -> dict:
    stamp = manifest["stamp"]
    return {key: stamp[key] for key in ("stage", "code", "config", "packages")}


def _recomputed(
    conditions: Mapping[str, list[str]], nodes: Mapping, row: Mapping, table: Mapping, root: Path
) -> dict[str, float]:
    """{role: mean accuracy over its seeds} from the sample rows; the table must say the same."""
    metric, task = table["stamp"]["config"].get("metric"), row.get("task")
    metric = metric or table["stamp"]["config"].get("named", {}).get("metric")
    found = {}
    for role, paths in conditions.items():
        if not (metric and task and all("samples" in nodes[path] for path in paths)):
            continue
        read = read_conditions({str(root / p): sealed_manifest(root / p) for p in paths})
        values = [accuracies(c.correct, c.truncated)[task][metric_of(task, metric)] for c in read]
        found[role] = round(sum(values) / len(values), 9)
        said = row.get(role)
        if role in LETTERS and said and abs(float(said) - found[role]) > 1e-8:
            raise StaleInput(
                f"{role} is {said} in the table, but its sample rows give {found[role]}: "
                f"{', '.join(paths)}"
            )
    return found
