"""`ablation trace`: shows everything that one cell of a table was made from."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import (
    PATH,
    Command,
    Several,
    column_and_value,
    json_option,
    report_errors,
    show_or_save,
)
from ablation.cli.studies import find_table, study_options


@click.command(
    cls=Command,
    short_help="Show the runs, samples, weights, data, code and cost behind a cell of a table.",
    examples=(
        "ablation trace --where recipe=3B seed=all mask=prefill_bidir task=macro --column gain",
        "ablation trace --study micro --where recipe=3B seed=31 task=macro --column gain --json -",
    ),
)
@click.argument(
    "table",
    required=False,
    type=PATH,
    help="A table of a study (default: results/recovery.csv).",
)
@click.option(
    "--where",
    cls=Several,
    type=column_and_value,
    metavar="COLUMN=VALUE",
    help="The values that select one row.",
)
@click.option("--column", required=True, help="The column of the cell in that row.")
@json_option
@click.option(
    "--ledger",
    type=PATH,
    help="The ledger of rented machines with the cost of each job (default: all in ledger/).",
)
@click.option(
    "--carbon-region",
    metavar="COUNTRY",
    help="The country whose electricity the machines used, such as DEU; adds CO2 to the sums.",
)
@study_options
def trace(
    table: Path | None,
    where: tuple[tuple[str, str], ...],
    column: str,
    ledger: Path | None,
    carbon_region: str | None,
    configfile: Path | None,
    study: str | None,
    json: Path | None,
) -> int:
    """Show as a tree everything that a cell was made from. All files on the way are hashed again,
    and the accuracies behind the cell are computed again from the sample rows. The exit status is
    2 if the cell cannot be traced.
    """
    from ablation.lineage.trace import trace
    from ablation.lineage.trace_tree import print_trace
    from ablation.provenance.energy import region
    from ablation.provenance.manifests import StaleInput

    with report_errors(StaleInput, OSError, ValueError, status=2):
        place = region(carbon_region) if carbon_region else None
        chosen = find_table(table, configfile, study)
        found = trace(chosen, dict(where), column, ledger)
        show_or_save(found, json, lambda traced: print_trace(traced, place))
    return 0
