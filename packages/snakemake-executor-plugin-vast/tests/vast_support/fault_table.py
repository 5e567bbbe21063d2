"""Writes the results of e2e/test_faults.py as a table into a page.

`python -m vast_support.fault_table FOLDER PAGE MARKET`; FOLDER is the value of FAULT_RESULTS in the
tests.
"""

import json
import sys
from pathlib import Path

from vast_support.driver_scenarios import SCENARIOS

BEGIN, END = "<!-- faults: written by `make test-faults` -->\n", "<!-- end of faults -->\n"
HEAD = (
    "| fault | machines | attempts | steps lost | dollars lost | dollars in all | machines left |\n"
    "|---|--:|--:|--:|--:|--:|--:|\n"
)


def table(rows: dict[str, dict]) -> str:
    lines = [
        f"| {name} | {r['rented']} | {r['attempts']} | {r['lost_steps']} | {r['wasted']:.2f} | "
        f"{r['spent']:.2f} | {r['left']} |\n"
        for name, r in ((name, rows[name]) for name in SCENARIOS if name in rows)
    ]
    return HEAD + "".join(lines)


def main(folder: str, page: Path, market: str) -> None:
    rows = {}
    for file in Path(folder).glob("*.json"):
        row = json.loads(file.read_text())
        if row["market"] == market:
            rows[row["fault"]] = row
    expected = {name for name, (_, markets, _) in SCENARIOS.items() if market in markets}
    if missing := expected - set(rows):
        sys.exit(f"no result for {', '.join(sorted(missing))}: the table stays as it is")
    before, rest = page.read_text().split(BEGIN)
    page.write_text(before + BEGIN + table(rows) + END + rest.split(END)[1])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
