"""`ablation seal`: writes hashes of a study's manifests and run records, and signs them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ablation.cli.options import PATH, Command, report_errors
from ablation.cli.studies import find_study_folder, study_folder_argument
from ablation.console.printable import printable


@click.command(
    cls=Command,
    short_help="Seal a study, so that `ablation verify` names files that change later.",
    examples=(
        "ablation seal",
        "ablation seal results/micro --key ~/.ssh/id_ed25519",
    ),
)
@study_folder_argument
@click.option(
    "--key",
    type=PATH,
    metavar="FILE",
    help="The private SSH key that signs; with an SSH agent, the public key is enough.",
)
def seal(folder: Path | None, configfile: Path | None, study: str | None, key: Path | None) -> int:
    """Verify a study, then write the hashes of its manifests and run records into its seal.json.
    With a key, ssh-keygen signs this file, and nobody without the key can seal edited results
    again. No rule depends on a seal. The exit status is 1 if a file has changed since it was made,
    and 2 if ssh-keygen cannot sign.
    """
    from ablation.lineage.seal import CannotSign, sealed_files, write_seal
    from ablation.lineage.verify import edited
    from ablation.provenance.manifests import SEAL, SIGNATURE, StaleInput

    with report_errors(StaleInput, CannotSign, OSError, ValueError, status=2):
        home = find_study_folder(folder, configfile, study)
        if problems := edited(home).problems:
            print(printable("\n".join(problems)), file=sys.stderr)
            print(f"{home} was not sealed: these files are not as they were made", file=sys.stderr)
            return 1
        write_seal(home, key)
    signed = f", signed in {home / SIGNATURE}" if key else ", unsigned (--key FILE signs)"
    print(f"{home / SEAL}: {len(sealed_files(home))} manifests and run records{signed}")
    return 0
