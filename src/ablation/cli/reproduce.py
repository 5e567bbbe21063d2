"""`ablation reproduce`: makes one stage again beside the results and compares the two."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ablation.cli.options import (
    Commands,
    add_configfile,
    file_to_write,
    load_study_of,
    number,
    report_errors,
)
from ablation.console.printable import printable
from ablation.vocabulary.stages import GROUPS


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    reproduce = commands.add_parser(
        "reproduce",
        help="Make one stage again beside the results, and compare.",
        description="Verify the inputs of a stage, make the stage again in a temporary folder, "
        "and compare each file: identical, within tolerance, or different. Nothing in results/ "
        "changes. The exit status is 1 if a file differs by more than the tolerance, and 2 if "
        "the stage could not be made again.",
    )
    option = reproduce.add_argument
    option(
        "stage",
        choices=GROUPS,
        metavar="STAGE",
        help=f"The stage: {', '.join(GROUPS)}.",
    )
    option(
        "--tolerance",
        type=number(0),
        default=0.0,
        help="The largest absolute difference between two numbers (default: 0).",
    )
    option(
        "--only",
        nargs="+",
        default=[],
        metavar="PART",
        help="Make only the results with one of these parts in their path, such as 3B/seed31.",
    )
    option("--cores", default="all", help="The number of cores for Snakemake (default: all).")
    option(
        "--json",
        type=file_to_write,
        metavar="FILE",
        help="Write the result of each comparison into this file as JSON.",
    )
    add_configfile(reproduce)
    reproduce.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print each file that is not identical, and a summary."""
    from ablation.config.merging import ConfigError
    from ablation.lineage.compare import DIFFERENT, IDENTICAL, WITHIN_TOLERANCE
    from ablation.lineage.reproduce import CannotReproduce, reproduce
    from ablation.provenance.files import write_json
    from ablation.provenance.manifests import StaleInput

    file = arguments.configfile
    with report_errors(CannotReproduce, ConfigError, StaleInput, OSError, status=2):
        compared = reproduce(
            arguments.stage,
            load_study_of(arguments).study,
            arguments.tolerance,
            arguments.cores,
            arguments.only,
            ["--configfile", str(file.resolve())] if file else [],
        )
        if arguments.json:
            write_json(arguments.json, [asdict(comparison) for comparison in compared])
    unlike = [comparison for comparison in compared if comparison.outcome != IDENTICAL]
    for comparison in unlike:
        print(printable(comparison))
    different = any(comparison.outcome == DIFFERENT for comparison in unlike)
    result = DIFFERENT if different else WITHIN_TOLERANCE if unlike else IDENTICAL
    same = len(compared) - len(unlike)
    print(f"{arguments.stage}: {result} ({same} of {len(compared)} files identical)")
    return 1 if different else 0
