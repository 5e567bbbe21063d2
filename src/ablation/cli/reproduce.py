"""`ablation reproduce`: makes one stage again beside the results and compares the two."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ablation.cli.options import FILE_TO_WRITE, Command, Several, number, report_errors
from ablation.cli.studies import load_study_of, snakemake_options_of, study_options
from ablation.console.printable import printable
from ablation.vocabulary.stages import GROUPS


@click.command(
    cls=Command,
    short_help="Make one stage again in a temporary folder, and compare it with the results.",
    examples=(
        "ablation reproduce stage4",
        "ablation reproduce stage3 --only 3B/seed31 --study micro",
        "ablation reproduce stage3 --tolerance 1e-4",
    ),
)
@click.argument(
    "stage", type=click.Choice(GROUPS), metavar="STAGE", help=f"The stage: {', '.join(GROUPS)}."
)
@click.option(
    "--tolerance",
    type=number(0),
    default=0.0,
    help="The largest absolute difference between two numbers (default: 0).",
)
@click.option(
    "--only",
    cls=Several,
    metavar="PART",
    help="Make only the results with one of these parts in their path, such as 3B/seed31.",
)
@click.option("--cores", default="all", help="The number of cores for Snakemake (default: all).")
@click.option(
    "--json",
    type=FILE_TO_WRITE,
    metavar="FILE",
    help="Write the result of each comparison into this file as JSON.",
)
@study_options
def reproduce(
    stage: str,
    tolerance: float,
    only: tuple[str, ...],
    cores: str,
    json: Path | None,
    configfile: Path | None,
    study: str | None,
) -> int:
    """Verify the inputs of a stage, make the stage again in a temporary folder, and compare each
    file: identical, within tolerance, or different. Nothing in results/ changes. The exit status
    is 1 if a file differs by more than the tolerance, and 2 if the stage could not be made again.

    Without --study and --configfile, the study is that of config/default.yaml.
    """
    from ablation.config.merging import ConfigError
    from ablation.lineage.compare import DIFFERENT, IDENTICAL, WITHIN_TOLERANCE
    from ablation.lineage.reproduce import CannotReproduce, reproduce
    from ablation.provenance.files import write_json
    from ablation.provenance.manifests import StaleInput

    with report_errors(CannotReproduce, ConfigError, StaleInput, OSError, status=2):
        compared = reproduce(
            stage,
            load_study_of(configfile, study).study,
            tolerance,
            cores,
            only,
            snakemake_options_of(configfile, study),
        )
        if json:
            write_json(json, [asdict(comparison) for comparison in compared])
    unlike = [comparison for comparison in compared if comparison.outcome != IDENTICAL]
    for comparison in unlike:
        print(printable(comparison))
    different = any(comparison.outcome == DIFFERENT for comparison in unlike)
    result = DIFFERENT if different else WITHIN_TOLERANCE if unlike else IDENTICAL
    same = len(compared) - len(unlike)
    print(f"{stage}: {result} ({same} of {len(compared)} files identical)")
    return 1 if different else 0
