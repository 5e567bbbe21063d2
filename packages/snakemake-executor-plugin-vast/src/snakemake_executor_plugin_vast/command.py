"""The command `snakemake-vast`, for what must be done when no Snakemake runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .clock import Clock
from .driver import runs
from .market import UnknownMarket, find_market, take_secrets
from .market.protocol import Market, MarketError
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
        "market no longer lists them. Machines of a run that is alive, or that was started in "
        "another folder or on another computer, are not touched. The exit code is 1 if a machine "
        "is left.",
    )
    command.set_defaults(run=lambda: reap(Path.cwd()))
    return int(parser.parse_args(arguments).run())


def reap(folder: Path) -> int:
    """End the machines of the runs that were started in `folder` and killed; an exit code.

    What happens is printed. The code is 1 if machines may be left.
    """
    if not (folder / runs.PLACE).is_dir():
        print(
            f"{folder}: no run has rented machines from this folder, so the market was not asked. "
            "Run the command in the folder where Snakemake was started."
        )
        return 0
    try:
        left = runs.reap(folder, _connect, lambda text: print(printable(text)))
    except (MarketError, UnknownMarket, ValueError) as error:
        print(printable(error), file=sys.stderr)
        return 1
    still = printable(f"still listed: {' '.join(left)}")
    print(still if left else "No machine of a killed run is left.")
    return 1 if left else 0


def _connect(name: str) -> Market:
    return find_market(name).connect(take_secrets(name, os.environ), Path.home(), Clock())


if __name__ == "__main__":
    sys.exit(main())
