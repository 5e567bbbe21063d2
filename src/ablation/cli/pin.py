"""`ablation pin`: looks up the missing commits of hub repositories and writes them into YAML."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablation.cli.options import Commands, report_errors
from ablation.console.printable import printable


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    pin = commands.add_parser(
        "pin",
        help="Look up the commits of hub repositories that a study lacks, and write them down.",
        description="Look up the current commit of each hub repository that the study reads and "
        "that has no commit under `pins`: the commit of the branch or tag that is given there, or "
        "of the main branch. Write the commits into the file; comments and order are kept.",
    )
    pin.add_argument(
        "file", type=Path, help="The configuration file of the study: config/ministral3b.yaml."
    )
    pin.add_argument(
        "--folder",
        type=Path,
        default=Path("config"),
        help="The folder of the files that it may extend (default: config).",
    )
    pin.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the missing pins and print them."""
    from ablation.cli.pin_file import pin
    from ablation.config.merging import ConfigError
    from ablation.data.hub import HubError

    with report_errors(ConfigError, HubError, OSError):
        written = pin(arguments.file, arguments.folder)
    for repository, (commit, file) in written.items():
        print(printable(f"{repository}: {commit} ({file})"))
    if not written:
        print(f"{arguments.file}: each hub repository that the study reads has a commit already")
    return 0
