"""`ablation accept`: records that a refactoring changes no result, so that no job runs again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ablation.cli.options import (
    CommandFailed,
    Commands,
    add_configfile,
    load_study_of,
    report_errors,
)
from ablation.vocabulary.stages import STAGES

if TYPE_CHECKING:
    from ablation.lineage.compare import Comparison


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    accept = commands.add_parser(
        "accept",
        help="Record that a refactoring changes no result, so that no job runs again.",
        description="Record in accepted.json that the present code of a stage makes the same "
        "results as the code that made the ones in the results folder. Snakemake and all later "
        "stages then treat these results as current. Changes of configuration, packages and "
        "inputs still make them stale. Without --reproduce, every table that rests on these "
        "results is made again, with a column `unchecked`. Commit accepted.json with the "
        "refactoring.",
    )
    option = accept.add_argument
    option(
        "stage",
        nargs="+",
        help="The stages, such as stage3_finetune, as the fingerprints in manifests name them.",
    )
    option(
        "--why",
        default="",
        metavar="TEXT",
        help="The reason why no result changes; accepted.json keeps it.",
    )
    option(
        "--results",
        type=Path,
        default=Path("results"),
        help="The folder whose results are accepted (default: results).",
    )
    option(
        "--reproduce",
        action="store_true",
        help="Make the results again first, as `ablation reproduce` does, and record nothing "
        "unless every file is identical. Later, this checks what was accepted without it.",
    )
    add_configfile(accept)
    accept.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Accept each stage; a stage that is refused does not stop the others."""
    from ablation.lineage.accept import accept
    from ablation.lineage.reproduce import CannotReproduce, reproduce
    from ablation.provenance.manifests import StaleInput

    file, status = arguments.configfile, 0
    options = ["--configfile", str(file.resolve())] if file else []

    for stage in arguments.stage:

        def again(manifests: Sequence[str], stage: str = stage) -> Sequence[Comparison]:
            study, group = load_study_of(arguments).study, STAGES[stage].group
            if outside := [p for p in manifests if not p.startswith(f"results/{study}/")]:
                raise ValueError(
                    f"{outside[0]} is not of the study {study}, whose configuration is read. "
                    f"Choose its results: --results results/{study}"
                )
            return reproduce(group, study, 0.0, only=manifests, options=options)

        try:
            with report_errors(StaleInput, CannotReproduce, OSError, ValueError):
                made_again = again if arguments.reproduce else None
                print(accept(stage, arguments.why, ".", arguments.results, made_again))
        except CommandFailed as failed:
            status = failed.status
    return status
