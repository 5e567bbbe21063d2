"""`ablation push`: sends the results of a study to a store."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import Command, report_errors
from ablation.cli.studies import load_study_of, study_options
from ablation.console.printable import printable


@click.command(
    cls=Command,
    short_help="Send the results of a study to a folder, s3://, hf:// or an archive.",
    examples=(
        "ablation push s3://bucket/study",
        "ablation push hf://datasets/owner/name --study micro --no-weights",
        "ablation push study.zip --configfile config/mine.yaml",
    ),
)
@click.argument("uri", help="A folder, s3://bucket/folder, hf://datasets/owner/name, or FILE.zip.")
@study_options
@click.option(
    "--weights/--no-weights",
    default=None,
    help="Send the weights of checkpoints too (default: the study's keep_weights).",
)
@click.option(
    "--check", is_flag=True, help="Read back and verify the files that the store has already."
)
def push(
    uri: str, weights: bool | None, check: bool, configfile: Path | None, study: str | None
) -> int:
    """Send all files of the results that the store does not have yet, together with Snakemake's
    metadata about them. After `ablation pull` on another machine, Snakemake finds nothing left to
    do there. FILE.zip in place of a URI writes an archive for publication: one small file,
    without texts of items and records.

    Without --study and --configfile, the study is that of config/default.yaml.
    """
    from ablation.config.merging import ConfigError
    from ablation.provenance.manifests import StaleInput
    from ablation.remote.push import push
    from ablation.remote.store import StoreError

    with report_errors(ConfigError, StaleInput, StoreError, OSError, status=2):
        configured = load_study_of(configfile, study)
        weights = configured.keep_weights if weights is None else weights
        print(printable(push(uri, configured.study, weights, check)))
    return 0
