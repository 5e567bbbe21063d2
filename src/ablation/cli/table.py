"""`ablation table`: prints a recovery table of the first study, or the claims of the second."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ablation.cli.options import PATH, Command, format_option, report_errors
from ablation.cli.studies import find_table, study_options
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO


@click.command(
    cls=Command,
    short_help="Print a recovery table, or the claims of a bridge study.",
    examples=(
        "ablation table --study micro --task each",
        "ablation table --format latex",
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
@format_option
@study_options
def table(
    file: Path | None,
    seed: str,
    task: str,
    form: str,
    configfile: Path | None,
    study: str | None,
) -> int:
    """Verify a table by the manifest beside it, and print it.

    Without an argument, it is the recovery table of the study that ran last.
    """
    from ablation.lineage.trace import verify_table
    from ablation.provenance.accepted import UNCHECKED
    from ablation.provenance.manifests import StaleInput
    from ablation.report.text_tables import claims_tables, print_as, recovery_tables

    with report_errors(StaleInput, ValueError):  # edited, no table, or text in place of numbers
        chosen = find_table(file, configfile, study)
        unchecked = verify_table(chosen)
        claims = chosen.name == "claims.csv"
        found = claims_tables(chosen) if claims else recovery_tables(chosen, seed, task)
        print_as(form, found)
    for stage in unchecked:
        print(UNCHECKED.format(stage=stage), file=sys.stderr if form != "text" else None)
    return 0
