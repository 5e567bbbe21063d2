"""`ablation reap`: ends the rented machines of runs that were killed."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablation.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    reap = commands.add_parser(
        "reap",
        help="Destroy the rented machines of killed runs that were started in this folder.",
        description="Copy the checkpoints of unfinished jobs from the rented machines of killed "
        "runs, destroy these machines, and wait until the market no longer lists them. A machine "
        "whose checkpoints cannot be copied is stopped instead, and listed with the price of its "
        "disk. Machines of a run that is alive, or that was started in another folder, are left "
        "alone.",
    )
    reap.add_argument(
        "--destroy",
        metavar="ID",
        type=int,
        nargs="+",
        default=[],
        help="Destroy these machines even if their checkpoints could not be copied.",
    )
    reap.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Destroy the machines. The exit status is 1 if some of them are left."""
    # Imported here, because the other commands do not need the executor.
    from snakemake_executor_plugin_vast.command import reap

    return reap(Path.cwd(), arguments.destroy)
