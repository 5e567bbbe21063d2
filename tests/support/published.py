"""Tables in the archives of published studies."""

import csv
import io
import json
import zipfile
from pathlib import Path

STUDIES = Path(__file__).resolve().parents[2] / "docs/studies"


def archived_rows(study, table):
    """The rows of a table in the archive of a study."""
    parts = b"".join(part.read_bytes() for part in sorted(STUDIES.glob(f"{study}.zip.part*")))
    with zipfile.ZipFile(io.BytesIO(parts)) as archive:
        (name,) = [n for n in archive.namelist() if n.startswith("snapshots/")]
        file = json.loads(archive.read(name))["files"][f"results/{study}/{table}.csv"]
        (name,) = [n for n in archive.namelist() if n.endswith(file["sha256"])]
        return list(csv.DictReader(io.StringIO(archive.read(name).decode())))


def macro_rows(study):
    """pooled_rows of the archive of a study."""
    return pooled_rows(archived_rows(study, "recovery"))


def pooled_rows(rows):
    """{(recipe, mask): row of recovery.csv}, the mean over tasks and seeds."""
    found = [row for row in rows if (row["seed"], row["task"]) == ("all", "macro")]
    return {(row["recipe"], row["mask"]): row for row in found}
