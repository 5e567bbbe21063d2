"""Commands that make a file again, for messages. Each can be typed as it is printed."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from shlex import quote

from ablation.vocabulary.catalogue import BRIDGE, FIRST

DEFAULT_STUDY = "micro"  # of config/default.yaml, which Snakemake reads without --configfile


def configured_studies(folder: Path) -> dict[Path, str]:
    """{configuration file in `folder`: its study}, by the line `study: NAME`."""
    found = {}
    for file in sorted(folder.glob("*.yaml")):
        with suppress(OSError):  # a folder, or a link to nothing, such as an editor's lock
            text = file.read_text("utf-8", "replace")
            if line := re.search(r"^study:[ \t]*[\"']?([\w.-]+)", text, re.M):
                found[file] = line[1]
    return found


def files_of_study(folder: Path, study: str) -> list[Path]:
    """The configuration files of a study in `folder`; that with the study's name alone, if any."""
    files = [file for file, name in configured_studies(folder).items() if name == study]
    return [file for file in files if file.stem in (study, "default")] or files


def command_for(path: str | Path, study: str | None = None) -> str:
    """The command that makes `path`, to be typed in the root of the repository.

    study: the study whose copy results/recovery.csv is. Paths below name their study. The
    configuration file of another study than the default one is that in config/ with its name.
    Names are quoted, since a folder of results that somebody else has made may have any names.
    """
    parts = Path(path).parts
    if "resources" in parts and "results" not in parts:  # the repository ships them
        place = len(parts) - parts[::-1].index("resources") - 1
        return f"git checkout -- {quote('/'.join(parts[place:]))}"
    if "results" not in parts:
        return f"snakemake --cores all --force {quote(str(path))}"
    place = len(parts) - parts[::-1].index("results")
    root, below = Path(*parts[: place - 1]), parts[place:]
    made = f"snakemake --cores all --force {quote('/'.join(('results', *below)))}"
    study = below[0] if len(below) > 1 else study
    if study in (None, DEFAULT_STUDY):
        return made
    files = files_of_study(root / "config", study)
    if files:
        return f"{made} --configfile {quote(f'config/{files[0].name}')}"
    return f"{made} --configfile FILE  # FILE has the line `study: {quote(study)}`"


def has_rule(table: str | Path) -> bool:
    """Whether Snakemake has a rule that makes a table, by its name and place."""
    match Path(table).parts[-4:]:
        case [*_, "results", "recovery.csv"]:
            return True
        case [*_, "results", _, "bridge", name]:
            return Path(name).stem in BRIDGE.tables
        case [*_, "results", _, name]:
            return Path(name).stem in FIRST.tables
    return False
