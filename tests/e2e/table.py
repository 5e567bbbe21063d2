"""The table of docs/vast.md, from the rows that test_faults.py left: `-m tests.e2e.table`."""

import json
import sys
from pathlib import Path

from .drills import ROOT
from .rows import ROWS

BEGIN, END = "<!-- faults: written by `make test-faults` -->\n", "<!-- end of faults -->\n"
HEAD = (
    "| fault | machines | attempts | steps lost | dollars lost | dollars in all | machines left |\n"
    "|---|--:|--:|--:|--:|--:|--:|\n"
)


def table(rows: dict[str, dict]) -> str:
    lines = [
        f"| {name} | {r['rented']} | {r['attempts']} | {r['lost_steps']} | {r['wasted']:.2f} | "
        f"{r['spent']:.2f} | {r['left']} |\n"
        for name, r in ((name, rows[name]) for name in ROWS if name in rows)
    ]
    return HEAD + "".join(lines)


def main(folder: str) -> None:
    rows = {}
    for file in Path(folder).glob("*.json"):
        row = json.loads(file.read_text())
        rows[row["fault"]] = row
    if missing := set(ROWS) - set(rows):
        sys.exit(f"no row for {', '.join(sorted(missing))}: the table stays as it is")
    page = ROOT / "docs/vast.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(before + BEGIN + table(rows) + END + rest.split(END)[1])


if __name__ == "__main__":
    main(sys.argv[1])
