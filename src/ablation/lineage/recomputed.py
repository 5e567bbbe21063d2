"""Computes the cells of a row again from the sample rows of its conditions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import pandas as pd

from ablation.analysis.conditions import Condition, per_task_table, read_conditions
from ablation.analysis.generations import TextsDisagree
from ablation.analysis.metrics import accuracies
from ablation.analysis.published import PublishedSettings, side_by_side
from ablation.analysis.recovery import CONTRAST_COLUMNS, study_tables, table
from ablation.analysis.recovery_columns import RecoverySettings
from ablation.data.generation.rows import ROWS
from ablation.provenance.manifests import StaleInput, load_manifest
from ablation.provenance.tables import read_csv, table_text
from ablation.vocabulary.catalogue import FIRST
from ablation.vocabulary.generation import metric_of_row
from ablation.vocabulary.protocols import tasks_of_row

PUBLISHED_FILE = "resources/published/prefill.json"
KEYS = ("source", "protocol", "recipe", "against", "seed", "mask", "task", "stage")


def read_scored(paths: Iterable[str], root: Path) -> dict[str, Condition]:
    """{path: its condition} of those manifests that have sample rows of the first study.

    Raises StaleInput if a generated text does not give the judgement that is stored for it.
    """
    manifests = {path: load_manifest(root / path) for path in sorted(paths)}
    scored = {
        path: manifest
        for path, manifest in manifests.items()
        if {"samples.parquet", ROWS} & set(manifest["outputs"]) and "mask" in manifest
    }
    try:
        conditions = read_conditions({str(root / p): manifest for p, manifest in scored.items()})
    except TextsDisagree as error:
        raise StaleInput(str(error)) from None
    return dict(zip(scored, conditions, strict=True))


def mean_accuracies(
    roles: Mapping[str, Sequence[Condition]], task: str, metric: str
) -> dict[str, float]:
    """{role: accuracy in a task or macro, as the mean over the role's conditions}."""
    families = frozenset().union(*(c.families for c in roles.get("after", ())))
    found = {}
    for role, conditions in roles.items():
        scored = [accuracies(c.correct, c.truncated) for c in conditions]
        known = conditions[0].correct[metric_of_row(task, metric)]
        names = tasks_of_row(task, known, families)
        means = (mean(of_tasks[n][metric_of_row(n, metric)] for n in names) for of_tasks in scored)
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
        again = _tables(settings, conditions)[name.rpartition("/")[2]]
        return _compare(name, row, _by_key(again))
    (upstream,) = made_by["inputs"]  # the manifest of recovery.csv
    behind = load_manifest(root / upstream)["fingerprint"]["config"]
    printed = root / PUBLISHED_FILE
    if not printed.is_file():
        raise StaleInput(f"{printed} is missing, which holds the published numbers. Restore it")
    settings = RecoverySettings.model_validate(behind)
    recovery = _tables(settings, conditions)["recovery.csv"] if conditions else table([])
    both = side_by_side(
        json.loads(printed.read_text("utf-8")),
        _as_texts(recovery),
        PublishedSettings.model_validate(config),
    )
    _compare(name, row, _by_key(both))


class Recomputed(NamedTuple):
    """rows: how many the tables have. equal: how many of them are what the sample rows give.

    problems: one sentence for each of the others, and for each table of another length.
    """

    rows: int
    equal: int
    problems: list[str]


def check_tables(home: Path, root: Path) -> Recomputed:
    """Compare every row of a study's tables with what its sample rows give.

    home: the folder of the study. root: the folder to which the paths in its manifests are
    relative. The tables are recovery.csv, contrasts.csv and per_task.csv.
    """
    compared = equal = 0
    problems: list[str] = []
    for path in sorted(home.glob("*.manifest.json")):
        made_by = load_manifest(path)
        stage, outputs = made_by["fingerprint"]["stage"], made_by["outputs"]
        if stage != FIRST.tables["recovery"].made_by:
            continue
        settings = RecoverySettings.model_validate(made_by["fingerprint"]["config"])
        conditions = list(read_scored(made_by["inputs"], root).values())
        for name, frame in _tables(settings, conditions).items():
            if name not in outputs:
                continue
            again, count = _by_key(frame), len(frame)
            rows = read_csv(home / name, dtype=str, keep_default_na=False)
            if len(rows) != count:
                problems.append(
                    f"{home / name} has {len(rows)} rows, and its sample rows give {count}"
                )
            compared += len(rows)
            for row in rows.to_dict("records"):
                cells = {str(column): cell for column, cell in row.items()}
                try:
                    _compare(str(home / name), cells, again)
                    equal += 1
                except StaleInput as error:
                    problems.append(str(error))
    return Recomputed(compared, equal, problems)


def _as_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells of a table as the texts that `trace` reads from its file."""
    return read_csv(io.StringIO(table_text(frame)), dtype=str, keep_default_na=False)


Rows = Mapping[tuple[tuple[str, str], ...], Sequence[Mapping[str, str]]]  # {its keys: rows}


def _by_key(frame: pd.DataFrame) -> Rows:
    found: dict[tuple[tuple[str, str], ...], list[Mapping[str, str]]] = {}
    for cells in _as_texts(frame).to_dict("records"):
        row = {str(name): cell for name, cell in cells.items()}
        found.setdefault(_key(row), []).append(row)
    return found


def _key(row: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, row[key]) for key in KEYS if key in row)


def _compare(name: str, row: Mapping[str, str], again: Rows) -> None:
    """Raise StaleInput unless `again` has one row of the same keys with the same cells."""
    found = again.get(_key(row), ())
    if len(found) != 1:
        keys = ", ".join(value for _, value in _key(row))
        raise StaleInput(f"{name}: the sample rows give no row {keys}")
    unlike = [cell for cell in found[0] if cell in row and row[cell] != found[0][cell]]
    if unlike:
        shown = "; ".join(f"{c} is {row[c] or 'empty'}, not {found[0][c]}" for c in unlike[:3])
        more = f"; and {len(unlike) - 3} more cells" if len(unlike) > 3 else ""
        raise StaleInput(f"{name} is not what its sample rows give: {shown}{more}")


def _tables(settings: RecoverySettings, conditions: Sequence[Condition]) -> dict[str, pd.DataFrame]:
    """{file name: the table} of the three that sample rows give."""
    recovery, contrasts = study_tables(conditions, settings)
    confidence = settings.statistics.confidence
    return {
        "recovery.csv": table(recovery),
        "contrasts.csv": table(contrasts, CONTRAST_COLUMNS),
        "per_task.csv": per_task_table(settings.study, conditions, settings.metric, confidence),
    }
