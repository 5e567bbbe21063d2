"""`ablation diff`: shows what differs between two snapshots of a study."""

from __future__ import annotations

import argparse
from functools import partial

from ablation.cli.options import Commands, add_json, report_errors, show_or_save
from ablation.vocabulary.protocols import MACRO


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    diff = commands.add_parser(
        "diff",
        help="Show what differs between two results, two pushes or two commits.",
        description="Compare configuration, code, packages, data, hardware and accuracies of two "
        "snapshots of a study. Differences of accuracies have intervals that are paired by item. "
        "The exit status is 2 if the snapshots cannot be compared.",
    )
    option = diff.add_argument
    option(
        "first",
        metavar="FIRST",
        help="A folder of results, a push (URI, or URI@SNAPSHOT), or a commit.",
    )
    option("second", metavar="SECOND", help="The snapshot that is compared with the first.")
    option("--study", help="The study to compare, where a store holds several.")
    option(
        "--task",
        choices=(MACRO, "each"),
        default=MACRO,
        help=f"Print the mean over tasks, or each task (default: {MACRO}).",
    )
    option("--configfile", help="The configuration file of the study, where commits are compared.")
    add_json(diff)
    diff.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the differences, or write them as JSON."""
    from ablation.config.merging import ConfigError
    from ablation.lineage.diff import diff, print_diff
    from ablation.lineage.snapshots import NothingToCompare
    from ablation.provenance.manifests import StaleInput
    from ablation.remote.store import StoreError

    failures = (NothingToCompare, ConfigError, StaleInput, StoreError, OSError)
    with report_errors(*failures, status=2):
        found = diff(arguments.first, arguments.second, arguments.study, arguments.configfile)
        show_or_save(
            found, arguments.json, partial(print_diff, every_task=arguments.task == "each")
        )
    return 0
