"""Writes the times of the jobs of a bridge study as CSV.

    python tools/bridge_times.py results/<study>

There is one row for each section of a job. The rows come from the run records, so a job that has
not ended has no row; its log has the same times.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

COLUMNS = ("job", "section", "samples", "seconds", "seconds_each", "peak_mem_mb")


def rows(results: Path) -> Iterator[dict]:
    """One row for each section; `seconds_each` of a training are the seconds of a step."""
    for file in sorted((results / "bridge").rglob("run.json")):
        job = file.parent.relative_to(results / "bridge").as_posix()
        record = json.loads(file.read_text("utf-8"))
        yield {"job": job, "section": "all of it", "seconds": record["seconds"]}
        for name, section in record.get("sections", {}).items():
            yield {"job": job, "section": name, **section}
        for cell, training in record.get("cells", {}).items():
            named = {"job": f"{job}/{cell}"}
            yield {
                **named,
                "section": "a training step",
                "seconds": training["seconds"],
                "seconds_each": training["seconds_a_step"],
                "peak_mem_mb": training["peak_mem_mb"],
            }
            for name, section in training["sections"].items():
                yield {**named, "section": name, **section}


def main(results: Path) -> None:
    writer = csv.DictWriter(sys.stdout, COLUMNS)
    writer.writeheader()
    writer.writerows(rows(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
