"""`ablation diff`: shows what differs between two snapshots of a study."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from ablation.cli.options import Command, json_option, report_errors, show_or_save
from ablation.cli.studies import study_options
from ablation.vocabulary.protocols import MACRO


@click.command(
    cls=Command,
    short_help="Show what differs between two results, two pushes or two commits.",
    examples=(
        "ablation diff results/micro other/results/micro",
        "ablation diff s3://bucket/ours@3f2a s3://bucket/ours --study micro",
        "ablation diff v1.0 HEAD --configfile config/ministral3b.yaml",
    ),
)
@click.argument(
    "first",
    metavar="FIRST",
    help="A folder of results, a push (URI, or URI@SNAPSHOT), or a commit.",
)
@click.argument("second", metavar="SECOND", help="The snapshot that is compared with the first.")
@click.option(
    "--task",
    type=click.Choice((MACRO, "each")),
    default=MACRO,
    help=f"Print the mean over tasks, or each task (default: {MACRO}).",
)
@study_options
@json_option
def diff(
    first: str,
    second: str,
    study: str | None,
    task: str,
    configfile: Path | None,
    json: Path | None,
) -> int:
    """Compare configuration, code, packages, data, hardware and accuracies of two snapshots of a
    study. Differences of accuracies have intervals that are paired by item. If a folder or a store
    holds several studies, --study chooses one; --configfile names the file of a study in commits.
    The exit status is 2 if the snapshots cannot be compared.
    """
    from ablation.analysis.metrics import MetricsDisagree
    from ablation.config.merging import ConfigError
    from ablation.lineage.diff import diff, print_diff
    from ablation.lineage.snapshots import NothingToCompare
    from ablation.provenance.manifests import StaleInput
    from ablation.remote.store import StoreError

    failures = (NothingToCompare, ConfigError, MetricsDisagree, StaleInput, StoreError, OSError)
    with report_errors(*failures, status=2):
        found = diff(first, second, study, str(configfile) if configfile else None)
        show_or_save(found, json, partial(print_diff, every_task=task == "each"))
    return 0
