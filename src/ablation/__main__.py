"""`ablation`: what is done around a study rather than in it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ablation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="print a recovery table readably")
    table.add_argument("file", type=Path, nargs="?", default=Path("results/recovery.csv"))
    table.add_argument("--seed", default="all", help="one seed, or `all` (default)")
    table.add_argument("--task", default="macro", help="one task, `macro` (default), or `each`")
    table.set_defaults(run=_table)
    pin = commands.add_parser(
        "pin",
        help="ask the hub for the commits that a study lacks, and write them into its file",
        description="Each hub repository that the study reads and that has no commit under `pins` "
        "is looked up once (a branch or tag named there, else the main branch). Comments stay.",
    )
    pin.add_argument("file", type=Path, help="the study's file: config/ministral3b.yaml")
    pin.add_argument("--folder", type=Path, default=Path("config"), help="what it may extend")
    pin.set_defaults(run=_pin)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)


def _table(arguments: argparse.Namespace) -> int:
    from ablation.tables import print_recovery

    if not arguments.file.is_file():
        print(
            f"{arguments.file} was not found. Make it: snakemake --cores all {arguments.file}",
            file=sys.stderr,
        )
        return 1
    return print_recovery(arguments.file, arguments.seed, arguments.task)


def _pin(arguments: argparse.Namespace) -> int:
    from ablation.hub import HubError
    from ablation.layers import ConfigError
    from ablation.pins import pin

    try:
        written = pin(arguments.file, arguments.folder)
    except (ConfigError, HubError, OSError) as fault:
        print(fault, file=sys.stderr)
        return 1
    for repository, (commit, file) in written.items():
        print(f"{repository}: {commit} ({file})")
    if not written:
        print(f"{arguments.file}: every hub repository that it reads has its commit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
