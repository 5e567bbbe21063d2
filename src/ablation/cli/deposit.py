"""`ablation deposit`: writes a folder of a study for an archive of research data."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import PATH, Command, Several, report_errors
from ablation.cli.studies import find_study_folder, study_folder_argument
from ablation.console.printable import printable


@click.command(
    cls=Command,
    short_help="Write a folder of a study for Zenodo or another archive.",
    examples=(
        "ablation deposit --study micro --author 'Doe, Jane' --license CC-BY-4.0",
        "ablation deposit results/micro --to ../deposit --upload sandbox",
    ),
    epilog="The folder has the archive of `ablation push` without weights and texts, all sample "
    "rows as one table, the tables of the study, a README.md, the licence, hashes, and metadata by "
    "DataCite, Croissant, RO-Crate and the Citation File Format. The token of an upload comes from "
    "the environment variable ZENODO_TOKEN and from nowhere else.",
)
@study_folder_argument
@click.option(
    "--to",
    type=PATH,
    metavar="FOLDER",
    help="The folder to write (default: deposits/ and the name of the study).",
)
@click.option(
    "--author",
    cls=Several,
    metavar="NAME",
    help="Who made the study: 'Family, Given <https://orcid.org/...>', or the name of a group "
    "(default: the authors of CITATION.cff here).",
)
@click.option(
    "--license",
    metavar="ID",
    help="The licence of the results by its SPDX identifier (default: that of CITATION.cff here).",
)
@click.option(
    "--upload",
    type=click.Choice(("sandbox", "zenodo")),
    help="Make a draft of the folder on Zenodo, or on its sandbox for trials. You publish it.",
)
def deposit(
    folder: Path | None,
    to: Path | None,
    author: tuple[str, ...],
    license: str | None,
    upload: str | None,
    configfile: Path | None,
    study: str | None,
) -> int:
    """Verify a study, and write a folder that can be deposited as it is. Nothing is uploaded
    without --upload, and nothing is ever published: an upload is a draft, which you publish on its
    page. An interrupted upload goes on, and what is there already is not sent again.
    """
    from ablation.provenance.manifests import StaleInput
    from ablation.publication import zenodo
    from ablation.publication.checkpoint import NotPublishable
    from ablation.publication.deposit import RUN_CRATE, make_deposit
    from ablation.remote.store import StoreError

    with report_errors(NotPublishable, StaleInput, StoreError, OSError, ValueError, status=2):
        home = find_study_folder(folder, configfile, study)
        target = to or Path("deposits", home.name)
        made = make_deposit(home, target, author, license, Path())
        for file in sorted(target.iterdir()):
            print(f"{file.stat().st_size:>16,}  {file.name}")
        names = "; ".join(author.name for author in made.authors)
        if RUN_CRATE not in made.files:
            print(
                f"without a run crate: {home.parent} has none of this study "
                "(`snakemake --reporter runcrate` writes it)"
            )
        print(printable(f"{target}: {made.title}, by {names}, under {made.licence}"))
        if upload:
            print(printable(zenodo.upload(target, made, upload)))
    return 0
