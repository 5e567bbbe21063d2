"""`ablation worlds`: what comes back over several worlds, each with a base of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ablation.cli.options import Commands, report_errors

if TYPE_CHECKING:
    import pandas as pd


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    worlds = commands.add_parser(
        "worlds",
        help="Pool the recovery of several worlds, with an interval for a new world.",
        description="Read the recovery tables of several studies that differ in their world, and "
        "print R and net R of each world, their mean over the population of worlds, and the "
        "interval that holds the value of a new world (docs/statistics.md).",
    )
    worlds.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="A recovery.csv of each world."
    )
    worlds.add_argument(
        "--confidence", type=float, default=0.95, help="Level of the intervals (default: 0.95)."
    )
    worlds.add_argument(
        "--write", type=Path, metavar="FOLDER", help="Also write worlds.csv and worlds.svg there."
    )
    worlds.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the pooled recovery, and write the rows and the figure of the worlds."""
    from ablation.analysis.worlds import pooled_rows, world_rows
    from ablation.lineage.trace import verify_table
    from ablation.provenance.accepted import UNCHECKED
    from ablation.provenance.manifests import StaleInput
    from ablation.provenance.tables import marked, read_table, write_table
    from ablation.report.terminal_tables import RECOVERY, print_worlds

    with report_errors(StaleInput, ValueError):
        tables: dict[str, pd.DataFrame] = {}
        files: dict[str, Path] = {}
        unchecked: set[str] = set()
        for file in arguments.files:
            unchecked |= set(verify_table(file))
            table = read_table(file, RECOVERY, dtype={"seed": str})
            world = str(table.study.iloc[0])
            if world in tables:
                raise ValueError(
                    f"{file} is a table of world {world}, and so is {files[world]}: a mean over "
                    "worlds needs one table of each. Nothing was written; leave one of them out."
                )
            tables[world], files[world] = table, file
        rows = world_rows(tables)
        pooled = pooled_rows(rows, arguments.confidence)
        print_worlds(rows, pooled)
        for stage in sorted(unchecked):
            print(UNCHECKED.format(stage=stage))
        if arguments.write:
            from ablation.report.charts import render
            from ablation.report.world_figure import worlds

            arguments.write.mkdir(parents=True, exist_ok=True)
            rows, pooled = (marked(table, sorted(unchecked)) for table in (rows, pooled))
            write_table(arguments.write / "worlds.csv", rows)
            write_table(arguments.write / "worlds_pooled.csv", pooled)
            svg = render(worlds(rows, pooled), ".svg")
            (arguments.write / "worlds.svg").write_bytes(svg)
    return 0
