"""`ablation dose`: recovery on tasks that no record trains, by the number of record families."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import PATH, Command, report_errors
from ablation.cli.studies import find_study_folder, study_folder_argument
from ablation.vocabulary.masks import ABLATED_MASKS


@click.command(
    cls=Command,
    short_help="Show recovery by the number of record families that belong to no scored task.",
    examples=(
        "ablation dose results/dose",
        "ablation dose --study dose --write results/doses",
    ),
)
@study_folder_argument
@click.option(
    "--mask",
    type=click.Choice(ABLATED_MASKS),
    default=ABLATED_MASKS[0],
    help=f"The mask of the scores that are printed and drawn (default: {ABLATED_MASKS[0]}).",
)
@click.option(
    "--write", type=PATH, metavar="FOLDER", help="Also write dose.csv and dose.svg there."
)
def dose(
    folder: Path | None, configfile: Path | None, study: str | None, mask: str, write: Path | None
) -> int:
    """Read the recovery and contrasts of the study of doses (config/dose.yaml), and print R and net
    R of tasks that no record trains, by the number of families in the records.
    """
    from ablation.analysis.doses import dose_rows, trainings
    from ablation.lineage.trace import verify_table
    from ablation.provenance.manifests import StaleInput
    from ablation.provenance.tables import read_table, write_table
    from ablation.report.text_tables import RECOVERY, print_doses

    with report_errors(StaleInput, ValueError):
        home = find_study_folder(folder, configfile, study)
        tables = []
        for name, columns in (("recovery", RECOVERY), ("contrasts", ("recipe", "against"))):
            file = home / f"{name}.csv"
            verify_table(file)
            tables.append(read_table(file, columns, dtype={"seed": str}))
        rows = dose_rows(tables[0], tables[1], trainings(home))
        print_doses(rows[rows["mask"] == mask])
        if write:
            from ablation.report.charts import render
            from ablation.report.pooled_figures import doses

            write.mkdir(parents=True, exist_ok=True)
            write_table(write / "dose.csv", rows)
            svg = render(doses(rows, mask), ".svg")
            (write / "dose.svg").write_bytes(svg)
    return 0
