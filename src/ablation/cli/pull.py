"""`ablation pull`: brings pushed results of a study from a store."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import Command, report_errors
from ablation.cli.studies import load_study_of, name_of, study_options
from ablation.console.printable import printable


@click.command(
    cls=Command,
    short_help="Fetch the pushed results of a study, and verify every byte.",
    examples=(
        "ablation pull s3://bucket/study --no-weights",
        "ablation pull s3://bucket/ours --study micro",
        "ablation pull study.zip",
    ),
)
@click.argument("uri", help="A folder, s3://bucket/folder, hf://datasets/owner/name, or FILE.zip.")
@study_options
@click.option("--no-weights", is_flag=True, help="Do not fetch the weights of checkpoints.")
@click.option("--snapshot", metavar="HASH", help="The push to fetch (default: the last one).")
@click.option("--force", is_flag=True, help="Overwrite files here that have other content.")
def pull(
    uri: str,
    no_weights: bool,
    snapshot: str | None,
    force: bool,
    configfile: Path | None,
    study: str | None,
) -> int:
    """Fetch the files of a push that are missing here, with Snakemake's metadata about them, and
    verify them. Without --study and --configfile, the study is the one of the archive (FILE.zip);
    from a store it is that of config/default.yaml.
    """
    from ablation.config.merging import ConfigError
    from ablation.provenance.manifests import StaleInput
    from ablation.remote.archive import is_archive
    from ablation.remote.push import pull
    from ablation.remote.store import StoreError

    with report_errors(ConfigError, StaleInput, StoreError, OSError, status=2):
        name = name_of(configfile, study)
        if not name and not is_archive(uri):
            name = load_study_of(None, None).study
        weights = not no_weights
        print(printable(pull(uri, name, weights, snapshot, force)))
    return 0
