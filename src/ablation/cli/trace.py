"""`ablation trace`: shows everything that one cell of a table was made from."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablation.cli.options import (
    Commands,
    add_json,
    column_and_value,
    report_errors,
    show_or_save,
)


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    trace = commands.add_parser(
        "trace",
        help="Show the runs, samples, weights, data, code and cost behind a cell of a table.",
        description="Show as a tree everything that a cell was made from. All files on the way "
        "are hashed again, and the accuracies behind the cell are computed again from the sample "
        "rows. The exit status is 2 if the cell cannot be traced.",
    )
    option = trace.add_argument
    option("table", type=Path, help="A table of a study, such as results/recovery.csv.")
    option(
        "--where",
        nargs="+",
        default=[],
        type=column_and_value,
        metavar="COLUMN=VALUE",
        help="The values that select one row.",
    )
    option("--column", required=True, help="The column of the cell in that row.")
    add_json(trace)
    option(
        "--ledger",
        type=Path,
        help="The ledger of rented machines with the cost of each job (default: all in ledger/).",
    )
    trace.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the tree, or write what was found as JSON."""
    from ablation.lineage.trace import trace
    from ablation.lineage.trace_tree import print_trace
    from ablation.provenance.manifests import StaleInput

    with report_errors(StaleInput, OSError, ValueError, status=2):
        found = trace(arguments.table, dict(arguments.where), arguments.column, arguments.ledger)
        show_or_save(found, arguments.json, print_trace)
    return 0
