"""`ablation verify`: names every file of a study that is not as it was made or sealed."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablation.cli.options import Commands, add_study_folder, find_study_folder, report_errors
from ablation.console.printable import printable


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    verify = commands.add_parser(
        "verify",
        help="Name every file of a study that is not as it was made or sealed.",
        description="Hash all results of a study again, and compare them with their manifests and "
        "with the seal of the study. Only a signed seal shows that results were edited together "
        "with their manifests. The exit status is 1 if a file is not as it was made or sealed.",
    )
    add_study_folder(verify)
    verify.add_argument(
        "--signers",
        type=Path,
        metavar="FILE",
        help="An allowed-signers file of ssh-keygen: the seal must be signed by one of its keys.",
    )
    verify.add_argument(
        "--recompute",
        action="store_true",
        help="Compute the tables again from the sample rows too, and compare every cell.",
    )
    verify.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found, one line each."""
    from ablation.lineage.recomputed import check_tables
    from ablation.lineage.verify import folder_above_results, verify
    from ablation.provenance.accepted import UNCHECKED
    from ablation.provenance.manifests import StaleInput

    with report_errors(StaleInput, OSError, ValueError, status=2):
        home = find_study_folder(arguments)
        found = verify(home, arguments.signers)
        if arguments.recompute:
            found.problems += check_tables(home, folder_above_results(home))
    for line in found.problems:
        print(printable(line))
    for stage in found.unchecked:
        print(UNCHECKED.format(stage=stage))
    gone = f", {_of_what(found.without)} are not here" if found.without else ""
    result = (
        f"{len(found.problems)} problems, named above" if found.problems else "as they were made"
    )
    print(f"{home}: {found.files} files of {found.manifests} manifests{gone}: {result}")
    print(printable(found.seal))
    return 1 if found.problems else 0


def _of_what(without: list[str]) -> str:
    from ablation.remote.push import weights_of

    weights = len(weights_of(without))
    counts = {"of weights": weights, "of texts": len(without) - weights}
    return " and ".join(f"{n} files {what}" for what, n in counts.items() if n)
