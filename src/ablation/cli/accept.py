"""`ablation accept`: records that a refactoring changes no result, so that no job runs again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ablation.cli.options import PATH, Command, CommandFailed, report_errors
from ablation.cli.studies import (
    RESULTS,
    load_study_of,
    results_of,
    snakemake_options_of,
    study_options,
)
from ablation.vocabulary.stages import STAGES

if TYPE_CHECKING:
    from ablation.lineage.compare import Comparison


@click.command(
    cls=Command,
    short_help="Record that a refactoring changes no result, so that no job runs again.",
    examples=(
        'ablation accept stage3_finetune --why "renamed a variable" --reproduce',
        'ablation accept stage4_metrics --why "moved a function" --study micro',
    ),
)
@click.argument(
    "stages",
    metavar="STAGE...",
    required=True,
    nargs=-1,
    help="The stages, such as stage3_finetune, as the fingerprints in manifests name them.",
)
@click.option(
    "--why",
    default="",
    metavar="TEXT",
    help="The reason why no result changes; accepted.json keeps it.",
)
@click.option(
    "--results",
    type=PATH,
    metavar="FOLDER",
    help="The folder whose results are accepted (default: results, or results/NAME of --study).",
)
@click.option(
    "--reproduce",
    "make_again",
    is_flag=True,
    help="Make the results again first, as `ablation reproduce` does, and record nothing unless "
    "every file is identical. Results that were accepted without it can be checked so later.",
)
@study_options
def accept(
    stages: tuple[str, ...],
    why: str,
    results: Path | None,
    make_again: bool,
    configfile: Path | None,
    study: str | None,
) -> int:
    """Record in accepted.json that the present code of a stage makes the same results as the code
    that made the ones in the results folder. Snakemake and all later stages then treat these
    results as current. Changes of configuration, packages and inputs still make them stale.
    Without --reproduce, every table that rests on these results is made again, with a column
    `unchecked`. Commit accepted.json with the refactoring.
    """
    from ablation.lineage.accept import accept
    from ablation.lineage.reproduce import CannotReproduce, reproduce
    from ablation.provenance.manifests import StaleInput

    status = 0
    with report_errors(ValueError):
        place = results or (results_of(study) if study else RESULTS)

    for stage in stages:

        def again(manifests: Sequence[str], stage: str = stage) -> Sequence[Comparison]:
            name, group = load_study_of(configfile, study).study, STAGES[stage].group
            options = snakemake_options_of(configfile, study)
            if outside := [p for p in manifests if not p.startswith(f"results/{name}/")]:
                raise ValueError(
                    f"{outside[0]} is not of the study {name}, whose configuration is read. "
                    f"Choose its results: --results results/{name}"
                )
            return reproduce(group, name, 0.0, only=manifests, options=options)

        try:
            with report_errors(StaleInput, CannotReproduce, OSError, ValueError):
                made_again = again if make_again else None
                print(accept(stage, why, ".", place, made_again))
        except CommandFailed as failed:
            status = failed.status
    return status
