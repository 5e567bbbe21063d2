"""What the commands share: types of arguments, options, messages on errors, output as JSON.

Commands import the modules that do their work inside `run`, so that `ablation --help` is fast and
does not import torch.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ablation.console.printable import printable, printable_json

if TYPE_CHECKING:
    from ablation.config.study import Study

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


# ---- errors ---------------------------------------------------------------------------------


class CommandFailed(Exception):
    """A command has printed why it failed and ends with the exit status `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@contextmanager
def report_errors(*expected: type[Exception], status: int = 1) -> Iterator[None]:
    """Print an expected error as a message without a traceback, and raise CommandFailed."""
    try:
        yield
    except expected as error:
        print(printable(error), file=sys.stderr)
        raise CommandFailed(status) from None


# ---- types of arguments ---------------------------------------------------------------------


def number(minimum: float, *, exclusive: bool = False) -> Callable[[str], float]:
    """The type of an argument that is a finite number of at least `minimum`, or above it."""

    def number(text: str) -> float:  # argparse prints this name for text that is no number
        value = float(text)
        if not (minimum < value < math.inf or (value == minimum and not exclusive)):
            bound = "above" if exclusive else "of at least"
            raise argparse.ArgumentTypeError(f"{text}: a number {bound} {minimum:g} was expected")
        return value

    return number


def file_to_write(text: str) -> Path:
    """The type of an argument that names a file to write; a folder is refused before any work."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; a file was expected")
    return path


def column_and_value(text: str) -> tuple[str, str]:
    """The type of an argument of the form COLUMN=VALUE."""
    column, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: COLUMN=VALUE was expected")
    return column, value


# ---- options that several commands have -----------------------------------------------------


def add_configfile(command: argparse.ArgumentParser) -> None:
    """Add `--configfile`, which `load_study_of` reads."""
    command.add_argument(
        "--configfile",
        type=Path,
        help="The configuration file of the study (default: config/default.yaml).",
    )


def load_study_of(arguments: argparse.Namespace) -> Study:
    """The study of `--configfile`, as Snakemake would load it. Raises ConfigError."""
    from ablation.config.load import load_study
    from ablation.config.merging import read_config_file

    file = arguments.configfile
    return load_study(
        read_config_file(file).values if file else {}, "config", [file] if file else []
    )


def add_store(command: argparse.ArgumentParser) -> None:
    """Add the place to which results are pushed, and the study whose results they are."""
    command.add_argument(
        "uri", help="A folder, s3://bucket/folder, hf://datasets/owner/name, or FILE.zip."
    )
    add_configfile(command)


def add_study_folder(command: argparse.ArgumentParser) -> None:
    """Add the folder of a study, which `find_study_folder` reads."""
    command.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("results"),
        metavar="STUDY_FOLDER",
        help="The results of a study (default: the only study in results).",
    )


def find_study_folder(arguments: argparse.Namespace) -> Path:
    """The folder of the study that is named, or the only one. Raises ValueError."""
    from ablation.lineage.snapshots import study_folder

    folder = arguments.folder
    if not any(folder.rglob("*manifest.json")):
        raise ValueError(f"{folder} holds no results of a study: name a folder below results/")
    return study_folder(folder)


def add_json(command: argparse.ArgumentParser) -> None:
    """Add `--json`, which `show_or_save` reads."""
    command.add_argument(
        "--json",
        type=file_to_write,
        metavar="FILE",
        help="Write everything into this file as JSON; `-` prints the JSON and nothing else.",
    )


def show_or_save(found: dict, file: Path | None, show: Callable[[dict], object]) -> None:
    """Show `found` by `show` and write it into `file`; print JSON alone where `file` is `-`."""
    from ablation.provenance.files import write_json

    if str(file) == "-":
        print(printable_json(found, indent=2))
        return
    if file:
        write_json(file, found)
    show(found)
