"""`ablation table`: prints a recovery table of the first study, or the claims of the second."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablation.cli.options import Commands, report_errors
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    table = commands.add_parser(
        "table",
        help="Print a recovery table, or the claims of a bridge study.",
        description="Verify a table by the manifest beside it, and print it.",
    )
    table.add_argument(
        "file",
        type=Path,
        nargs="?",
        default=Path("results/recovery.csv"),
        help="A recovery.csv or claims.csv (default: results/recovery.csv).",
    )
    table.add_argument(
        "--seed",
        default=ALL_SEEDS,
        help=f"One seed, or `{ALL_SEEDS}` for the mean over all seeds (default: {ALL_SEEDS}).",
    )
    table.add_argument(
        "--task",
        default=MACRO,
        help=f"One task, `{MACRO}` for the mean over tasks, or `each` (default: {MACRO}).",
    )
    table.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from ablation.lineage.trace import verify_table
    from ablation.provenance.accepted import UNCHECKED
    from ablation.provenance.manifests import StaleInput
    from ablation.report.terminal_tables import print_claims, print_recovery

    with report_errors(StaleInput, ValueError):  # edited, no table, or text in place of numbers
        unchecked = verify_table(arguments.file)
        if arguments.file.name == "claims.csv":
            status = print_claims(arguments.file)
        else:
            status = print_recovery(arguments.file, arguments.seed, arguments.task)
    for stage in unchecked:
        print(UNCHECKED.format(stage=stage))
    return status
