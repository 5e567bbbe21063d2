"""The command `snakemake-vast`, for what must be done when no Snakemake runs."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from .clock import Clock
from .driver import runs
from .market import connect, take_secrets
from .market.protocol import Market
from .terminal import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(
        prog="snakemake-vast", description="Manages the rented machines of --executor vast."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "reap",
        help="end the machines that killed runs in this folder have left",
        description="Saves the states of their jobs, destroys the machines, and waits until the "
        "market no longer lists them. A machine whose states cannot be saved is stopped instead, "
        "and listed with the price of its disk. Machines of a run that is alive, or that was "
        "started in another folder or on another computer, are not touched. The exit code is 1 if "
        "a machine is left.",
    )
    add_reap_options(command)
    chosen = parser.parse_args(arguments)
    return reap(Path.cwd(), chosen.destroy)


def add_reap_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `reap`."""
    parser.add_argument(
        "--destroy", metavar="ID", nargs="+", default=[],
        help="destroy these machines of killed runs even if their states were not saved",
    )  # fmt: skip


def reap(folder: Path, give_up: Collection[str] = ()) -> int:
    """End the machines of the runs that were started in `folder` and killed; an exit code.

    What happens is printed. The code is 1 if machines are left: those whose states could not be
    saved are stopped, unless `give_up` has their ids.
    """
    if not (folder / runs.PLACE).is_dir():
        print(
            f"{folder}: no run has rented machines from this folder, so the market was not asked. "
            "Run the command in the folder where Snakemake was started."
        )
        return 1 if give_up else 0
    once = functools.cache(_connect)  # the first call takes the key out of the environment
    try:
        left = runs.reap(folder, once, lambda text: print(printable(text)), give_up=give_up)
    except KeyboardInterrupt:
        print(
            "Interrupted: machines may be left and billed. Call `snakemake-vast reap` again.",
            file=sys.stderr,
        )
        return 130
    for problem in left.problems:
        print(printable(problem), file=sys.stderr)
    if left.listed:
        print(printable(f"still listed: {' '.join(left.listed)}"))
    for text in runs.next_steps(left.stopped):
        print(printable(text))
    if unknown := sorted(set(give_up) - left.found):
        ids = " ".join(unknown)
        print(f"--destroy {ids}: no killed run of this folder has such a machine", file=sys.stderr)
    elif not left:
        print("No machine of a killed run is left.")
    return 1 if left or unknown else 0


def _connect(names: str) -> Market:
    return connect(names, take_secrets(names, os.environ), Path.home(), Clock())


if __name__ == "__main__":
    sys.exit(main())
