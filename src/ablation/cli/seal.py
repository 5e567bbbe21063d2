"""`ablation seal`: writes hashes of a study's manifests and run records, and signs them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ablation.cli.options import Commands, add_study_folder, find_study_folder, report_errors
from ablation.console.printable import printable


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    seal = commands.add_parser(
        "seal",
        help="Seal a study, so that `ablation verify` names what changes later.",
        description="Verify a study, then write the hashes of its manifests and run records into "
        "its seal.json. With a key, ssh-keygen signs this file, and nobody without the key can "
        "seal edited results again. No rule depends on a seal. The exit status is 1 if a file is "
        "not as it was made, and 2 if ssh-keygen cannot sign.",
    )
    add_study_folder(seal)
    seal.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="The private SSH key that signs; with an SSH agent, its public half suffices.",
    )
    seal.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Seal the study, unless a file in it is not as it was made."""
    from ablation.lineage.seal import CannotSign, sealed_files, write_seal
    from ablation.lineage.verify import edited
    from ablation.provenance.manifests import SEAL, SIGNATURE, StaleInput

    with report_errors(StaleInput, CannotSign, OSError, ValueError, status=2):
        home = find_study_folder(arguments)
        if problems := edited(home).problems:
            print(printable("\n".join(problems)), file=sys.stderr)
            print(f"{home} was not sealed: these files are not as they were made", file=sys.stderr)
            return 1
        write_seal(home, arguments.key)
    signed = f", signed in {home / SIGNATURE}" if arguments.key else ", unsigned (--key FILE signs)"
    print(f"{home / SEAL}: {len(sealed_files(home))} manifests and run records{signed}")
    return 0
