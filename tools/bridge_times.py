"""What the jobs of a bridge study took: python tools/bridge_times.py results/<study>

One row a section of a job, from the run records and, of jobs that did not end, from nothing: their
logs tell the same, section by section.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

COLUMNS = ("job", "section", "samples", "seconds", "seconds_each", "peak_mem_mb")


def rows(results: Path) -> Iterator[dict]:
    """One row a section; a training's `seconds_each` are those of a step."""
    for file in sorted((results / "bridge").rglob("run.json")):
        job = file.parent.relative_to(results / "bridge").as_posix()
        record = json.loads(file.read_text("utf-8"))
        yield {"job": job, "section": "all of it", "seconds": record["seconds"]}
        for name, section in record.get("sections", {}).items():
            yield {"job": job, "section": name, **section}
        for cell, own in record.get("cells", {}).items():
            named = {"job": f"{job}/{cell}"}
            yield {
                **named,
                "section": "a training step",
                "seconds": own["seconds"],
                "seconds_each": own["seconds_a_step"],
                "peak_mem_mb": own["peak_mem_mb"],
            }
            for name, section in own["sections"].items():
                yield {**named, "section": name, **section}


if __name__ == "__main__":
    writer = csv.DictWriter(sys.stdout, COLUMNS)
    writer.writeheader()
    writer.writerows(rows(Path(sys.argv[1])))
