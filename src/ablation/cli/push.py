"""`ablation push`: sends the results of a study to a store."""

from __future__ import annotations

import argparse

from ablation.cli.options import Commands, add_store, load_study_of, report_errors
from ablation.console.printable import printable


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    push = commands.add_parser(
        "push",
        help="Send the results of a study to a folder, s3://, hf:// or an archive.",
        description="Send all files of the results that the store does not have yet, together "
        "with Snakemake's metadata about them. After `ablation pull` on another machine, "
        "Snakemake finds nothing left to do there. FILE.zip in place of a URI writes an archive "
        "for publication: one small file, without texts of items and records.",
    )
    add_store(push)
    push.add_argument(
        "--weights",
        action=argparse.BooleanOptionalAction,
        help="Send the weights of checkpoints too (default: the study's keep_weights).",
    )
    push.add_argument(
        "--check",
        action="store_true",
        help="Read back and verify the files that the store has already.",
    )
    push.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Push the results and print what was sent."""
    from ablation.config.merging import ConfigError
    from ablation.provenance.manifests import StaleInput
    from ablation.remote.push import push
    from ablation.remote.store import StoreError

    with report_errors(ConfigError, StaleInput, StoreError, OSError, status=2):
        study = load_study_of(arguments)
        weights = study.keep_weights if arguments.weights is None else arguments.weights
        print(printable(push(arguments.uri, study.study, weights, arguments.check)))
    return 0
