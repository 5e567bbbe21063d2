"""`ablation dose`: what comes back on tasks that no record asks, by families of records."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablation.cli.options import Commands, add_study_folder, find_study_folder, report_errors
from ablation.vocabulary.masks import ABLATED_MASKS


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    dose = commands.add_parser(
        "dose",
        help="Show recovery by the number of record families that nothing is scored on.",
        description="Read the recovery and contrasts of the study of doses (config/dose.yaml) and "
        "print R and net R of tasks that no record asks, by the families that the records hold.",
    )
    add_study_folder(dose)
    dose.add_argument(
        "--mask",
        default=ABLATED_MASKS[0],
        choices=ABLATED_MASKS,
        help=f"The mask while scoring, of what is printed and drawn (default: {ABLATED_MASKS[0]}).",
    )
    dose.add_argument(
        "--write", type=Path, metavar="FOLDER", help="Also write dose.csv and dose.svg there."
    )
    dose.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the rows of all seeds, and write the rows of each seed and the figure."""
    from ablation.analysis.doses import dose_rows, trainings
    from ablation.lineage.trace import verify_table
    from ablation.provenance.manifests import StaleInput
    from ablation.provenance.tables import read_table, write_table
    from ablation.report.terminal_tables import RECOVERY, print_doses

    with report_errors(StaleInput, ValueError):
        folder = find_study_folder(arguments)
        tables = []
        for name, columns in (("recovery", RECOVERY), ("contrasts", ("recipe", "against"))):
            file = folder / f"{name}.csv"
            verify_table(file)
            tables.append(read_table(file, columns, dtype={"seed": str}))
        rows = dose_rows(tables[0], tables[1], trainings(folder))
        print_doses(rows[rows["mask"] == arguments.mask])
        if arguments.write:
            from ablation.report.charts import render
            from ablation.report.dose_figure import doses

            arguments.write.mkdir(parents=True, exist_ok=True)
            write_table(arguments.write / "dose.csv", rows)
            svg = render(doses(rows, arguments.mask), ".svg")
            (arguments.write / "dose.svg").write_bytes(svg)
    return 0
