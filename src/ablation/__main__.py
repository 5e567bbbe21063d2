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


if __name__ == "__main__":
    sys.exit(main())
