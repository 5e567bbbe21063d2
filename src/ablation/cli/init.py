"""`ablation init`: a folder for a study, for users who have no clone of the repository."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from ablation.cli.options import PATH, Command, report_errors

STUDY_FILE = "config/study.yaml"
PROFILES = ("default", "gpu", "slurm")  # rented machines need the lock files of a clone
# A text in YAML too: `00` and `no` would be read as a number and a truth value.
NAME = re.compile(r"(?!(?:null|true|false|yes|no|on|off|y|n)$)[a-z][a-z0-9_-]*")


class CannotInit(ValueError):
    """The folder cannot become that of a study."""


@click.command(
    cls=Command,
    short_help="Write the folder of a new study, which needs no clone.",
    examples=(
        "ablation init mystudy",
        "ablation init ~/studies/second --name mistral",
    ),
)
@click.argument("folder", type=PATH, metavar="FOLDER", help="The folder; it is made if needed.")
@click.option(
    "--name",
    metavar="NAME",
    help="The name of the study: results/NAME (default: the name of the folder).",
)
def init(folder: Path, name: str | None) -> int:
    """Write a Snakefile that includes the installed workflow, the configuration of a small study,
    which you can change, profiles and a README. No existing file is overwritten.
    """
    from ablation.provenance.code_hash import ROOT
    from ablation.provenance.files import write_text
    from ablation.workflow.elsewhere import SHIPPED, WrongPlace, link_shipped

    with report_errors(CannotInit, WrongPlace, OSError):
        study = name or folder.resolve().name
        if not NAME.fullmatch(study):
            raise CannotInit(
                f"{study!r} is no name of a study: a small letter was expected, then letters, "
                "digits, - and _, and no word like `no`. "
                "Nothing was written.\nName the study by --name NAME."
            )
        files = files_of(study)
        if there := [file for file in (*files, *SHIPPED) if os.path.lexists(folder / file)]:
            raise CannotInit(
                f"{folder} has files that would be overwritten: {', '.join(there)}. Nothing was "
                "written.\nName another folder, or move those files."
            )
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_text(folder / file, text)
        link_shipped(ROOT, folder)
    print(f"{folder}: the study {study}, {len(files)} files\ncd {folder}\nsnakemake -n")
    return 0


def files_of(study: str) -> dict[str, str]:
    """{path in the folder of the study: content}, from the files of the installed workflow."""
    from ablation.provenance.code_hash import ROOT

    templates = ROOT / "workflow/new_study"
    example = (ROOT / "config/example.yaml").read_text("utf-8")
    files = {
        "Snakefile": (templates / "Snakefile").read_text("utf-8"),
        "README.md": (templates / "README.md").read_text("utf-8").replace("STUDY", study),
        ".gitignore": (templates / "gitignore").read_text("utf-8"),
        STUDY_FILE: _study_file(example, study),
    }
    for profile in PROFILES:
        text = (ROOT / "profiles" / profile / "config.yaml").read_text("utf-8")
        files[f"profiles/{profile}/config.yaml"] = _with_study(text)
    return files


def _study_file(example: str, study: str) -> str:
    """The example study under another name, without the comments that tell to copy it."""
    body = example[example.index("\nstudy: example") + 1 :]
    head = (
        "# The study of this folder. It runs as it is, in minutes on two cores, with the small\n"
        "# model and data that are shipped. Then replace them one after the other: the lines\n"
        "# marked (1) to (5). Keys that this file leaves out have their defaults.\n\n"
    )
    return head + body.replace("study: example", f"study: {study}", 1).replace(
        "results/example.", f"results/{study}."
    )


def _with_study(profile: str) -> str:
    """A profile whose `configfile` is the study of the folder."""
    named, found = re.subn(
        r"^# The default study\. .*\nconfigfile: .*$",
        f"configfile: {STUDY_FILE}",
        profile,
        flags=re.M,
    )
    return named if found else f"{profile}\n# The study of this folder.\nconfigfile: {STUDY_FILE}\n"
