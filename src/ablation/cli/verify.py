"""`ablation verify`: names every file of a study that has changed since it was made or sealed."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import PATH, Command, report_errors
from ablation.cli.studies import find_study_folder, study_folder_argument
from ablation.console.printable import printable


@click.command(
    cls=Command,
    short_help="Name every file of a study that has changed since it was made or sealed.",
    examples=(
        "ablation verify",
        "ablation verify --study micro --recompute",
        "ablation verify results/micro --signers allowed_signers",
    ),
)
@study_folder_argument
@click.option(
    "--signers",
    type=PATH,
    metavar="FILE",
    help="An allowed-signers file of ssh-keygen: the seal must be signed by one of its keys.",
)
@click.option(
    "--recompute",
    is_flag=True,
    help="Compute the tables again from the sample rows too, and compare every cell.",
)
def verify(
    folder: Path | None,
    configfile: Path | None,
    study: str | None,
    signers: Path | None,
    recompute: bool,
) -> int:
    """Hash all results of a study again, and compare them with their manifests and with the seal of
    the study. Only a signed seal shows that results were edited together with their manifests.
    The exit status is 1 if a file has changed since it was made or sealed.
    """
    from ablation.lineage.recomputed import check_tables
    from ablation.lineage.verify import folder_above_results, verify
    from ablation.provenance.accepted import UNCHECKED
    from ablation.provenance.manifests import StaleInput

    with report_errors(StaleInput, OSError, ValueError, status=2):
        home = find_study_folder(folder, configfile, study)
        found = verify(home, signers)
        again = check_tables(home, folder_above_results(home)) if recompute else None
        found.problems += again.problems if again else []
    for line in found.problems:
        print(printable(line))
    for stage in found.unchecked:
        print(UNCHECKED.format(stage=stage))
    gone = f", {_of_what(found.without)} are not here" if found.without else ""
    result = (
        f"{len(found.problems)} problems, named above" if found.problems else "as they were made"
    )
    print(f"{home}: {found.files} files of {found.manifests} manifests{gone}: {result}")
    if again:
        rows = f"{again.equal} of {again.rows} rows of the tables"
        print(f"recomputed: {rows} are what their sample rows give")
    print(printable(found.seal))
    return 1 if found.problems else 0


def _of_what(without: list[str]) -> str:
    from ablation.provenance.manifests import removed_weights
    from ablation.remote.push import weights_of

    weights, removed = len(weights_of(without)), len(removed_weights(without, Path()))
    texts = len(without) - removed
    counts = {"of weights": weights, "beside them": removed - weights, "of texts": texts}
    return " and ".join(f"{n} files {what}" for what, n in counts.items() if n)
