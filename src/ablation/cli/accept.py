"""`ablation accept`: records that a refactoring changes no result, so that no job runs again."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablation.cli.options import CommandFailed, Commands, report_errors


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    accept = commands.add_parser(
        "accept",
        help="Record that a refactoring changes no result, so that no job runs again.",
        description="Record in accepted.json that the present code of a stage makes the same "
        "results as the code that made the ones in the results folder. Snakemake and all later "
        "stages then treat these results as current. Changes of configuration, packages and "
        "inputs still make them stale. Commit accepted.json with the refactoring.",
    )
    option = accept.add_argument
    option(
        "stage",
        nargs="+",
        help="The stages, such as stage3_finetune, as the fingerprints in manifests name them.",
    )
    option(
        "--why",
        required=True,
        metavar="TEXT",
        help="The reason why no result changes; accepted.json keeps it.",
    )
    option(
        "--results",
        type=Path,
        default=Path("results"),
        help="The folder whose results are accepted (default: results).",
    )
    accept.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Accept each stage; a stage that is refused does not stop the others."""
    from ablation.lineage.accept import accept
    from ablation.provenance.manifests import StaleInput

    status = 0
    for stage in arguments.stage:
        try:
            with report_errors(StaleInput, ValueError):
                print(accept(stage, arguments.why, ".", arguments.results))
        except CommandFailed as failed:
            status = failed.status
    return status
