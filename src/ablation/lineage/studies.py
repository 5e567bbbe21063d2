"""All studies in a folder of results, from their records: what each one is, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ablation.provenance.files import sha256_file
from ablation.provenance.manifests import StaleInput, load_manifest
from ablation.provenance.run_records import read_run_record, run_record_path
from ablation.provenance.tables import read_table
from ablation.report.finding import COLUMNS, chosen_row
from ablation.report.html_tables import Marked, Section, html_page
from ablation.report.recovery_columns import BACK, interval, legend
from ablation.report.text_tables import TextTables
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import ALL_SEEDS, MACROS

RECOVERY = "recovery.manifest.json"
WHOLE, PARTLY, STALE, EDITED = "whole", "partly", "stale", "edited"
LETTERS = {"B": "baseline", "A": "ablated", "P": "after"}
INTERVALS = [
    f"{name}{end}" for name in ("recovered", "net_recovered") for end in ("", "_low", "_high")
]
DTYPES: dict[str, type] = dict.fromkeys(("seed", "recipe", "control", "comparable"), str)
DTYPES |= dict.fromkeys((*LETTERS.values(), *INTERVALS), float)
NOT_COMPARED = "not compared"  # with the configuration and code of this folder
EXPLAINED = (
    "state: whole, all that the table rests on is here, and was made by the present configuration "
    "and code; stale, some was made by others (`snakemake -n` says why); partly, some is missing; "
    "edited, a record or the table is not as it was written (`ablation verify`); not compared, no "
    "file in config/ is of the study, or it cannot be read here. recipe, mask, R, net R: of the "
    "study's finding, which no leak touches, in macro accuracy. leaks marked: recipes trained, and "
    "masks scored, that show a model its targets. date: of the last job. hours: of all jobs."
)


@dataclass
class StudyRecords:
    """What the records of one study say.

    made: {manifest: its fingerprint hash} of all results. recovery: recovery.csv, if it is here.
    edited: manifests, run records and a recovery table that are not as they were written.
    """

    name: str
    base: str = ""
    recipes: set[str] = field(default_factory=set)
    seeds: set[int] = field(default_factory=set)
    leaks: set[str] = field(default_factory=set)
    made: dict[str, str] = field(default_factory=dict)
    edited: list[str] = field(default_factory=list)
    lacking: int = 0
    recovery: pd.DataFrame | None = None
    date: str = ""
    seconds: float = 0.0
    bytes: int = 0


def read_study(home: Path) -> StudyRecords:
    """The records of the study in the folder `home`.

    A record or a recovery table that was edited is only named.
    """
    found, table = StudyRecords(home.name), home / "recovery.csv"
    recorded: str | None = None  # the hash of the table
    files = [file for file in home.rglob("*") if file.is_file() and not file.is_symlink()]
    found.bytes = sum(file.stat().st_size for file in files)
    for path in sorted(file for file in files if file.name.endswith("manifest.json")):
        try:
            manifest = load_manifest(path)
            run = read_run_record(run_record_path(path)) if run_record_path(path).is_file() else {}
        except StaleInput:
            found.edited.append(path.as_posix())
            continue
        found.made[path.as_posix()] = manifest["fingerprint"]["hash"]
        found.seconds += run.get("seconds", 0)
        found.date = max(found.date, run.get("started", ""))
        _add_facts(found, manifest)
        if path == home / RECOVERY:
            root = home.parent.parent  # to which the paths in manifests are relative
            found.lacking = sum(not (root / name).is_file() for name in manifest["inputs"])
            recorded = manifest["outputs"].get(table.name, {}).get("sha256", "")
    if table.is_file() and recorded not in (None, sha256_file(table)):
        found.edited.append(table.as_posix())
    elif table.is_file():
        try:
            found.recovery = read_table(table, (*COLUMNS, "seeds_disagree"), dtype=DTYPES)
        except ValueError:
            found.edited.append(table.as_posix())
    return found


def _add_facts(found: StudyRecords, manifest: Mapping) -> None:
    if manifest["fingerprint"]["stage"] == "base":
        config = manifest["fingerprint"]["config"]
        revision = str(config.get("revision", ""))[:7]
        found.base = f"{config.get('base', '')}{'@' if revision else ''}{revision}"
    if recipe := manifest.get("recipe"):
        found.recipes.add(str(recipe))
        found.seeds |= {manifest["seed"]} if isinstance(manifest.get("seed"), int) else set()
        found.leaks |= {f"{recipe} (train)"} if manifest.get("train_leaks") else set()
    found.leaks |= {f"{manifest.get('mask')} (eval)"} if manifest.get("eval_leaks") else set()


def state_of(found: StudyRecords, expected: Sequence[Mapping[str, str]] = ()) -> str:
    """The state of a study, as EXPLAINED says.

    expected: {manifest: fingerprint hash} of what its table rests on, for each configuration file
    of the study that can be read here; the one that made most of the results counts.
    """
    if found.edited:
        return EDITED
    if not any(path.endswith(f"/{RECOVERY}") for path in found.made) or found.lacking:
        return PARTLY
    states = []
    for wanted in expected:
        missing = sum(path not in found.made for path in wanted)
        other = sum(found.made.get(path, made) != made for path, made in wanted.items())
        count = f" ({other or missing} of {len(wanted)})" if other or missing else ""
        said = STALE if other else PARTLY if missing else WHOLE
        states.append((missing + other, said + count))
    return min(states)[1] if states else f"{WHOLE}, {NOT_COMPARED}"


# ---- tables ---------------------------------------------------------------------------------


def overview(studies: Sequence[StudyRecords], states: Mapping[str, str]) -> TextTables:
    """One row for each study; as CSV with all digits."""
    rows, cells = [], []
    for found in studies:
        state = states[found.name]
        row = _finding(found)
        rows.append(_numbers(found, state, row))
        cells.append(_cells(found, state, row))
    tables = {"studies": pd.DataFrame(cells)}
    return TextTables(pd.DataFrame(rows), tables, [], EXPLAINED)


def _finding(found: StudyRecords) -> pd.Series | None:
    return None if found.recovery is None else chosen_row(found.recovery)


def _cells(found: StudyRecords, state: str, row: pd.Series | None) -> dict[str, str]:
    return {
        "study": found.name,
        "base": found.base or "-",
        "recipes": ", ".join(sorted(found.recipes)) or "-",
        "seeds": str(len(found.seeds)),
        "state": state,
        "recipe": "-" if row is None else str(row.recipe),
        "mask": "-" if row is None else str(row["mask"]),
        "R": "-" if row is None else interval("recovered", 2)(row),
        "net R": "-" if row is None else interval("net_recovered", 2)(row),
        "leaks marked": ", ".join(sorted(found.leaks)) or "-",
        "date": found.date[:10] or "-",
        "hours": f"{found.seconds / 3600:.2f}",
        "MB": f"{found.bytes / 1e6:,.1f}",
    }


def _numbers(found: StudyRecords, state: str, row: pd.Series | None) -> dict[str, object]:
    return {
        "study": found.name,
        "base": found.base,
        "recipes": " ".join(sorted(found.recipes)),
        "seeds": " ".join(map(str, sorted(found.seeds))),
        "state": state,
        **{key: None if row is None else row[key] for key in ("recipe", "mask", *INTERVALS)},
        "leaks": ", ".join(sorted(found.leaks)),
        "date": found.date,
        "seconds": round(found.seconds, 3),
        "bytes": found.bytes,
    }


def page(studies: Sequence[StudyRecords], states: Mapping[str, str]) -> str:
    """The page of all studies: a row for each, and a row for each recipe and mask of each."""
    rows = [
        cells | {"state": _alarm(cells["state"]), "leaks marked": _alarm(cells["leaks marked"])}
        for cells in (_cells(found, states[found.name], _finding(found)) for found in studies)
    ]
    each = [row for found in studies for row in _each_recipe(found)]
    sections = [
        Section("Studies", rows, legend=EXPLAINED, compact=True),
        Section("What came back in each", each, legend=legend(each), compact=True),
    ]
    notes = [
        "Click a head, or press Enter on it, to sort by its column. The field shows the rows in "
        "which each of its words occurs, and none of those after a minus."
    ]
    return html_page("Studies", notes, sections, filtered=True)


def _each_recipe(found: StudyRecords) -> list[dict[str, str]]:
    """The macro rows of all seeds of a study, without those under `causal`."""
    if found.recovery is None:
        return []
    frame = found.recovery
    rows = frame[frame.task.isin(MACROS) & (frame["mask"] != CAUSAL) & (frame.seed == ALL_SEEDS)]
    return [
        {
            "study": found.name,
            "recipe": row.recipe,
            "mask": str(row["mask"]),
            "task": str(row.task),
            "leaks": _alarm(BACK["leaks"](row)),
            "seeds": _alarm(BACK["seeds"](row)),
            **{letter: f"{row[name]:.3f}" for letter, name in LETTERS.items()},
            "recovered": interval("recovered", 2)(row),
            "net recovered": interval("net_recovered", 2)(row),
        }
        for _, row in rows.iterrows()
    ]


def _alarm(text: str) -> str:
    return text if text in ("", "-") or text.startswith(WHOLE) else Marked(text, "bad")
