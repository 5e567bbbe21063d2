"""Computes the cells of a row again from the sample rows of its conditions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean

import pandas as pd

from ablation.analysis.conditions import Condition, per_task_table, read_conditions
from ablation.analysis.metrics import accuracies
from ablation.analysis.published import PublishedSettings, side_by_side
from ablation.analysis.recovery import CONTRAST_COLUMNS, study_tables, table
from ablation.analysis.recovery_columns import RecoverySettings
from ablation.provenance.manifests import StaleInput, load_manifest
from ablation.provenance.tables import read_csv, table_text
from ablation.vocabulary.catalogue import FIRST
from ablation.vocabulary.protocols import metric_of, tasks_of_row

PUBLISHED_FILE = "resources/published/prefill.json"
KEYS = ("source", "protocol", "recipe", "against", "seed", "mask", "task", "stage")


def read_scored(paths: Iterable[str], root: Path) -> dict[str, Condition]:
    """{path: its condition} of those manifests that have sample rows of the first study."""
    manifests = {path: load_manifest(root / path) for path in sorted(paths)}
    scored = {
        path: manifest
        for path, manifest in manifests.items()
        if "samples.parquet" in manifest["outputs"] and "mask" in manifest
    }
    conditions = read_conditions({str(root / path): manifest for path, manifest in scored.items()})
    return dict(zip(scored, conditions, strict=True))


def mean_accuracies(
    roles: Mapping[str, Sequence[Condition]], task: str, metric: str
) -> dict[str, float]:
    """{role: accuracy in a task or macro, as the mean over the role's conditions}."""
    families = frozenset().union(*(c.families for c in roles.get("after", ())))
    found = {}
    for role, conditions in roles.items():
        scored = [accuracies(c.correct, c.truncated) for c in conditions]
        names = tasks_of_row(task, conditions[0].correct[metric], families)
        means = (mean(of_tasks[n][metric_of(n, metric)] for n in names) for of_tasks in scored)
        found[role] = round(mean(means), 9)
    return found


def check_row(
    name: str,
    row: Mapping[str, str],
    made_by: Mapping,
    conditions: Sequence[Condition],
    root: Path,
) -> None:
    """Compare a row of recovery.csv, per_task.csv, contrasts.csv or published.csv with its origin.

    That is what `conditions` give, and for published.csv the printed numbers too. name: the file's
    name. row: its cells as texts. made_by: the manifest of the table. Raises StaleInput with the
    first cells that differ.
    """
    config = made_by["fingerprint"]["config"]
    if made_by["fingerprint"]["stage"] != FIRST.tables["published"].made_by:
        settings = RecoverySettings.model_validate(config)
        return _compare(name, row, _as_texts(_tables(name, settings, conditions)))
    (upstream,) = made_by["inputs"]  # the manifest of recovery.csv
    behind = load_manifest(root / upstream)["fingerprint"]["config"]
    printed = root / PUBLISHED_FILE
    if not printed.is_file():
        raise StaleInput(f"{printed} is missing, which holds the published numbers. Restore it")
    settings = RecoverySettings.model_validate(behind)
    recovery = _tables("recovery.csv", settings, conditions) if conditions else table([])
    both = side_by_side(
        json.loads(printed.read_text("utf-8")),
        _as_texts(recovery),
        PublishedSettings.model_validate(config),
    )
    _compare(name, row, _as_texts(both))


def check_tables(home: Path, root: Path) -> Iterator[str]:
    """One sentence for each row of a study's tables that its sample rows do not give.

    home: the folder of the study. root: the folder to which the paths in its manifests are
    relative. The tables are recovery.csv, contrasts.csv and per_task.csv.
    """
    for path in sorted(home.glob("*.manifest.json")):
        made_by = load_manifest(path)
        stage, outputs = made_by["fingerprint"]["stage"], made_by["outputs"]
        if stage != FIRST.tables["recovery"].made_by:
            continue
        settings = RecoverySettings.model_validate(made_by["fingerprint"]["config"])
        conditions = list(read_scored(made_by["inputs"], root).values())
        names = [f"{name}.csv" for name, t in FIRST.tables.items() if t.made_by == stage]
        for name in (name for name in names if name in outputs):
            again = _as_texts(_tables(name, settings, conditions))
            rows = read_csv(home / name, dtype=str, keep_default_na=False)
            if len(rows) != len(again):
                yield f"{home / name} has {len(rows)} rows, and its sample rows give {len(again)}"
            for row in rows.to_dict("records"):
                cells = {str(column): cell for column, cell in row.items()}
                try:
                    _compare(str(home / name), cells, again)
                except StaleInput as error:
                    yield str(error)


def _as_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells of a table as the texts that `trace` reads from its file."""
    return read_csv(io.StringIO(table_text(frame)), dtype=str, keep_default_na=False)


def _compare(name: str, row: Mapping[str, str], again: pd.DataFrame) -> None:
    """Raise StaleInput unless `again` has one row of the same keys with the same cells."""
    rows = [{str(name): cell for name, cell in cells.items()} for cells in again.to_dict("records")]
    keys = [key for key in KEYS if key in again]
    found = [cells for cells in rows if all(cells[key] == row[key] for key in keys)]
    if len(found) != 1:
        raise StaleInput(f"{name}: the sample rows give no row {', '.join(row[k] for k in keys)}")
    unlike = [cell for cell in found[0] if cell in row and row[cell] != found[0][cell]]
    if unlike:
        shown = "; ".join(f"{c} is {row[c] or 'empty'}, not {found[0][c]}" for c in unlike[:3])
        more = f"; and {len(unlike) - 3} more cells" if len(unlike) > 3 else ""
        raise StaleInput(f"{name} is not what its sample rows give: {shown}{more}")


def _tables(name: str, settings: RecoverySettings, conditions: Sequence[Condition]) -> pd.DataFrame:
    if name == "per_task.csv":
        confidence = settings.statistics.confidence
        return per_task_table(settings.study, conditions, settings.metric, confidence)
    recovery, contrasts = study_tables(conditions, settings)
    if name == "contrasts.csv":
        return table(contrasts, CONTRAST_COLUMNS)
    return table(recovery)
