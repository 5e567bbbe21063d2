"""The study of a command: `--configfile FILE` or `--study NAME`, which mean the same everywhere.

A command that needs the configuration reads that of the chosen study; a command that needs only
results reads those in results/NAME.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ablation.cli.options import PATH
from ablation.provenance.next_actions import configured_studies, files_of_study

if TYPE_CHECKING:
    from ablation.config.study import Study

CONFIG, RESULTS = Path("config"), Path("results")
RECOVERY = RESULTS / "recovery.csv"  # of the study that ran last
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _complete_study(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    names = {*configured_studies(CONFIG).values(), *studies_in(RESULTS)}
    return sorted(name for name in names if name.startswith(incomplete))


def study_options(command: Decorated) -> Decorated:
    """Add `--configfile` and `--study`, the parameters `configfile` and `study`, to a command."""
    command = click.option(
        "--study",
        metavar="NAME",
        shell_complete=_complete_study,
        help="The study, by its name: results/NAME, and the file in config/ with `study: NAME`.",
    )(command)
    return click.option(
        "--configfile",
        type=PATH,
        metavar="FILE",
        help="The study, by its configuration file.",
    )(command)


def study_folder_argument(command: Decorated) -> Decorated:
    """Add the folder of a study, which `find_study_folder` reads, and the options of a study."""
    return click.argument(
        "folder",
        required=False,
        type=PATH,
        metavar="[STUDY_FOLDER]",
        help="The results of a study (default: the only study in results).",
    )(study_options(command))


# ---- the configuration ----------------------------------------------------------------------


def configfile_of(configfile: Path | None, study: str | None) -> Path | None:
    """The configuration file of the chosen study; None if none is chosen. Raises ConfigError.

    In a folder without default.yaml, the only file of a study is chosen.
    Several files may be of one study. Then the one with the study's name counts, or default.yaml.
    """
    from ablation.config.merging import DEFAULT, ConfigError, did_you_mean

    known = configured_studies(CONFIG)
    if configfile:
        if not configfile.exists():
            raise ConfigError(
                f"{configfile}: No such file or directory; the YAML file of a study was expected. "
                f"Files in {CONFIG}/: {', '.join(file.name for file in known) or 'none'}"
            )
        if study and (name := _name_in(configfile)) != study:
            raise ConfigError(
                f"{configfile} is of the study {name}, not of {study}: name one of the two"
            )
        return configfile
    if not study:
        only = len(known) == 1 and not (CONFIG / DEFAULT).is_file()  # the folder of one study
        return next(iter(known)) if only else None
    files = files_of_study(CONFIG, study)
    if not files:
        names = sorted(set(known.values()))
        raise ConfigError(
            f"no file in {CONFIG}/ has `study: {study}`{did_you_mean(study, names) or '.'} "
            f"Studies there: {', '.join(names) or 'none'}"
        )
    if len(files) > 1:
        raise ConfigError(
            f"several files are of the study {study}: name one of them by --configfile: "
            f"{', '.join(map(str, files))}"
        )
    return files[0]


def load_study_of(configfile: Path | None, study: str | None) -> Study:
    """The chosen study, or that of config/default.yaml, as Snakemake would load it.

    Raises ConfigError.
    """
    from ablation.config.load import load_study
    from ablation.config.merging import read_config_file, shipped_config

    file = configfile_of(configfile, study)
    values = read_config_file(file).values if file else {}
    return load_study(values, shipped_config(), [file] if file else [])


def snakemake_options_of(configfile: Path | None, study: str | None) -> list[str]:
    """The options by which Snakemake reads the chosen study. Raises ConfigError."""
    file = configfile_of(configfile, study)
    return ["--configfile", str(file.resolve())] if file else []


def _name_in(file: Path) -> str:
    from ablation.config.merging import read_config_file, resolve, shipped_config

    values = resolve(read_config_file(file).values, shipped_config(), [file]).values
    return str(values.get("study"))


# ---- results --------------------------------------------------------------------------------


def studies_in(results: Path) -> list[str]:
    """The names of the studies that have results in the folder `results`."""
    from ablation.provenance.manifests import WORKFLOW_COPY

    folders = results.iterdir() if results.is_dir() else ()
    return sorted(
        folder.name
        for folder in folders
        if folder.is_dir() and folder.name != WORKFLOW_COPY and any(folder.rglob("*manifest.json"))
    )


def name_of(configfile: Path | None, study: str | None) -> str | None:
    """The name of the chosen study; None if none is chosen. Raises ConfigError."""
    file = configfile_of(configfile, study) if configfile else None
    return _name_in(file) if file else study


def results_of(name: str, results: Path = RESULTS) -> Path:
    """The folder with the results of the study `name`. Raises ConfigError if it has none."""
    from ablation.config.merging import ConfigError, did_you_mean

    home, names = results / name, studies_in(results)
    if results.name == name and not home.is_dir():
        return results
    if not home.is_dir():
        raise ConfigError(
            f"{home} was not found{did_you_mean(name, names) or '.'} Studies in {results}/: "
            f"{', '.join(names) or 'none; `make demo` makes one'}"
        )
    return home


def find_study_folder(folder: Path | None, configfile: Path | None, study: str | None) -> Path:
    """The folder of the study that is named, or the only one. Raises ValueError."""
    from ablation.lineage.snapshots import study_folder

    place = folder or RESULTS
    if name := name_of(configfile, study):
        place = results_of(name, place)
    if not any(place.rglob("*manifest.json")):
        names = ", ".join(studies_in(RESULTS)) or "none; `make demo` makes one"
        raise ValueError(f"{place} holds no results of a study. Studies in {RESULTS}/: {names}")
    return place if name else study_folder(place)


def find_table(table: Path | None, configfile: Path | None, study: str | None) -> Path:
    """The table that is named, or the recovery table of the chosen study or of the last one.

    Raises ConfigError for a study without results.
    """
    name = name_of(configfile, study)
    if table and name:
        raise click.UsageError("a table or a study was expected, not both")
    return table or (results_of(name) / RECOVERY.name if name else RECOVERY)
