"""`ablation pull`: brings pushed results of a study from a store."""

from __future__ import annotations

import argparse

from ablation.cli.options import Commands, add_store, load_study_of, report_errors
from ablation.console.printable import printable


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    pull = commands.add_parser(
        "pull",
        help="Bring the pushed results of a study, and verify every byte.",
        description="Bring the files of a push that are missing here, verify them, and bring "
        "Snakemake's metadata about them. Without --configfile, an archive (FILE.zip) brings the "
        "study that it holds.",
    )
    add_store(pull)
    pull.add_argument(
        "--no-weights", action="store_true", help="Do not bring the weights of checkpoints."
    )
    pull.add_argument(
        "--snapshot", metavar="HASH", help="The push to bring (default: the last one)."
    )
    pull.add_argument(
        "--force", action="store_true", help="Overwrite files here that have other content."
    )
    pull.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Pull the results and print what was brought."""
    from ablation.config.merging import ConfigError
    from ablation.provenance.manifests import StaleInput
    from ablation.remote.archive import is_archive
    from ablation.remote.push import pull
    from ablation.remote.store import StoreError

    with report_errors(ConfigError, StaleInput, StoreError, OSError, status=2):
        theirs = is_archive(arguments.uri) and not arguments.configfile
        study = None if theirs else load_study_of(arguments).study
        weights = not arguments.no_weights
        print(printable(pull(arguments.uri, study, weights, arguments.snapshot, arguments.force)))
    return 0
