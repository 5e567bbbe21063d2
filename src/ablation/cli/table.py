"""`ablation table`: prints a recovery table of the first study, or the claims of the second."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import PATH, Command, report_errors
from ablation.cli.studies import find_table, study_options
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO


@click.command(
    cls=Command,
    short_help="Print a recovery table, or the claims of a bridge study.",
    examples=(
        "ablation table",
        "ablation table --study micro --task each",
        "ablation table results/micro/bridge/claims.csv",
    ),
)
@click.argument(
    "file",
    type=PATH,
    required=False,
    help="A recovery.csv or claims.csv (default: results/recovery.csv).",
)
@click.option(
    "--seed",
    default=ALL_SEEDS,
    help=f"One seed, or `{ALL_SEEDS}` for the mean over all seeds (default: {ALL_SEEDS}).",
)
@click.option(
    "--task",
    default=MACRO,
    help=f"One task, `{MACRO}` for the mean over tasks, or `each` (default: {MACRO}).",
)
@study_options
def table(
    file: Path | None, seed: str, task: str, configfile: Path | None, study: str | None
) -> int:
    """Verify a table by the manifest beside it, and print it.

    Without an argument, it is the recovery table of the study that ran last.
    """
    from ablation.lineage.trace import verify_table
    from ablation.provenance.accepted import UNCHECKED
    from ablation.provenance.manifests import StaleInput
    from ablation.report.terminal_tables import print_claims, print_recovery

    with report_errors(StaleInput, ValueError):  # edited, no table, or text in place of numbers
        chosen = find_table(file, configfile, study)
        unchecked = verify_table(chosen)
        if chosen.name == "claims.csv":
            status = print_claims(chosen)
        else:
            status = print_recovery(chosen, seed, task)
    for stage in unchecked:
        print(UNCHECKED.format(stage=stage))
    return status
