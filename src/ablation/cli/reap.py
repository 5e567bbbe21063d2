"""`ablation reap`: ends the rented machines of runs that were killed."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import Command, Several


@click.command(
    cls=Command,
    short_help="Destroy the rented machines of killed runs that were started in this folder.",
    examples=(
        "ablation reap",
        "ablation reap --destroy 4711",
        "ablation reap --destroy runpod:7h9k2m4n6p",
    ),
)
@click.option(
    "--destroy",
    cls=Several,
    metavar="ID",
    help="Destroy these machines even if their checkpoints could not be copied.",
)
def reap(destroy: tuple[str, ...]) -> int:
    """Copy the checkpoints of unfinished jobs from the rented machines of killed runs, destroy
    these machines, and wait until the market no longer lists them. A machine whose checkpoints
    cannot be copied is stopped instead, and listed with the price of its disk. Machines of a run
    that is alive, or that was started in another folder, are left alone.
    """
    # Imported here, because the other commands do not need the executor.
    from snakemake_executor_plugin_vast.command import reap

    return reap(Path.cwd(), destroy)
