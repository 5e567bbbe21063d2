"""`ablation worlds`: what comes back over several worlds, each with a base of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ablation.cli.options import PATH, Command, report_errors

if TYPE_CHECKING:
    import pandas as pd


@click.command(
    cls=Command,
    short_help="Pool the recovery of several worlds, with an interval for a new world.",
    examples=(
        "ablation worlds results/world*/recovery.csv",
        "ablation worlds results/world*/recovery.csv --write results/worlds",
    ),
)
@click.argument(
    "tables",
    required=True,
    nargs=-1,
    type=PATH,
    metavar="FILE",
    help="A recovery.csv of each world.",
)
@click.option(
    "--confidence", type=float, default=0.95, help="Level of the intervals (default: 0.95)."
)
@click.option(
    "--write", type=PATH, metavar="FOLDER", help="Also write worlds.csv and worlds.svg there."
)
def worlds(tables: tuple[Path, ...], confidence: float, write: Path | None) -> int:
    """Read the recovery tables of several studies that differ in their world, and print R and net R
    of each world, their mean over the population of worlds, and the interval that holds the value
    of a new world (docs/statistics.md).
    """
    from ablation.analysis.worlds import pooled_rows, world_rows
    from ablation.lineage.trace import verify_table
    from ablation.provenance.accepted import UNCHECKED
    from ablation.provenance.manifests import StaleInput
    from ablation.provenance.tables import marked, read_table, write_table
    from ablation.report.text_tables import RECOVERY, print_worlds

    with report_errors(StaleInput, ValueError):
        found: dict[str, pd.DataFrame] = {}
        files: dict[str, Path] = {}
        unchecked: set[str] = set()
        for file in tables:
            unchecked |= set(verify_table(file))
            table = read_table(file, RECOVERY, dtype={"seed": str})
            world = str(table.study.iloc[0])
            if world in found:
                raise ValueError(
                    f"{file} is a table of world {world}, and so is {files[world]}: a mean over "
                    "worlds needs one table of each. Nothing was written; leave one of them out."
                )
            found[world], files[world] = table, file
        rows = world_rows(found)
        pooled = pooled_rows(rows, confidence)
        print_worlds(rows, pooled)
        for stage in sorted(unchecked):
            print(UNCHECKED.format(stage=stage))
        if write:
            from ablation.report.charts import render
            from ablation.report.pooled_figures import worlds

            write.mkdir(parents=True, exist_ok=True)
            rows, pooled = (marked(table, sorted(unchecked)) for table in (rows, pooled))
            write_table(write / "worlds.csv", rows)
            write_table(write / "worlds_pooled.csv", pooled)
            svg = render(worlds(rows, pooled), ".svg")
            (write / "worlds.svg").write_bytes(svg)
    return 0
