"""Reads the command line of `ablation` and runs the command that it names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ablation.cli import (
    accept,
    check,
    diff,
    dose,
    pin,
    plan,
    pull,
    push,
    reap,
    reproduce,
    sample,
    seal,
    table,
    trace,
    verify,
    worlds,
)
from ablation.cli.options import CommandFailed

# In the order in which `ablation --help` lists them.
COMMANDS = (
    *(plan, check, table, sample, accept, pin, reap),
    *(trace, diff, reproduce, verify, seal, push, pull, worlds, dose),
)
INTERRUPTED = 130  # the exit status that shells give for Ctrl-C


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the chosen command is `run` of the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="ablation",
        description="Plan a study before it runs; read, verify, compare and move its results.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) names.

    Returns the exit status. argparse raises SystemExit for arguments that it cannot read.
    """
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except CommandFailed as failed:
        return failed.status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
