"""`ablation pin`: looks up the missing commits of hub repositories and writes them into YAML."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import PATH, Command, report_errors
from ablation.cli.studies import CONFIG, configfile_of, study_options
from ablation.console.printable import printable


@click.command(
    cls=Command,
    short_help="Look up commits of hub repositories that a study lacks, and add them to its file.",
    examples=(
        "ablation pin config/ministral3b.yaml",
        "ablation pin --study smollm2",
    ),
)
@click.argument(
    "file",
    required=False,
    type=PATH,
    help="The configuration file of the study (default: that of --study, or config/default.yaml).",
)
@click.option(
    "--folder",
    type=PATH,
    help="The folder of the files that it may extend (default: config).",
)
@study_options
def pin(file: Path | None, folder: Path | None, configfile: Path | None, study: str | None) -> int:
    """Look up the current commit of each hub repository that the study reads and that has no commit
    under `pins`: the commit of the branch or tag that is given there, or of the main branch.
    Write the commits into the file; comments and order are kept.
    """
    from ablation.cli.pin_file import pin
    from ablation.config.merging import ConfigError, shipped_config
    from ablation.data.hub import HubError

    if file and (configfile or study):
        raise click.UsageError("a file or a study was expected, not both")
    with report_errors(ConfigError, HubError, OSError):
        chosen = file or configfile_of(configfile, study) or CONFIG / "default.yaml"
        written = pin(chosen, folder or shipped_config())
    for repository, (commit, place) in written.items():
        print(printable(f"{repository}: {commit} ({place})"))
    if not written:
        print(f"{chosen}: each hub repository that the study reads has a commit already")
    return 0
