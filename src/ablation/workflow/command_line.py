"""Checks Snakemake's arguments before Snakemake reads the files that they name.

The profile default/config.yaml calls `check_arguments`, because Snakemake reads the profile first.
Snakemake's own message for a file that is no YAML names neither the file nor the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from ablation.config.merging import ConfigError, read_config_file
from ablation.console.printable import printable

CONFIG_OPTIONS = ("--configfile", "--configfiles")
SLURM_PLUGIN = "snakemake_executor_plugin_slurm"
# Options with which Snakemake does not lock the folder.
STARTS_NOTHING = ("-n", "--dry", "--unlock", "--nolock", "--mode", "--report", "--lint")
YAML = (".yaml", ".yml", ".json")


def check_arguments(arguments: Sequence[str]) -> None:
    """End the process with a message if Snakemake cannot run with `arguments`."""
    if problem := argument_problem(arguments):
        raise SystemExit(printable(problem))


def starts_a_run(arguments: Sequence[str]) -> bool:
    """Whether Snakemake locks files with these arguments."""
    return not any(argument.startswith(STARTS_NOTHING) for argument in arguments)


def argument_problem(arguments: Sequence[str]) -> str | None:
    """What is wrong with Snakemake's arguments, where, and what to do; None if nothing is."""
    if any(argument.startswith("--mode") for argument in arguments):
        return None  # a job's own process, perhaps on a machine that has no such files
    words = " ".join(arguments).replace("=", " ")
    if re.search(r"(--profile|--executor|-e) *slurm\b", words) and not find_spec(SLURM_PLUGIN):
        return (
            "The executor `slurm` is not installed. Nothing was started.\n"
            "Install it, then give the same command again: pip install --editable '.[slurm]'"
        )
    for position, file in enumerate(files := list(_config_files(arguments))):
        if position and Path(file).suffix.lower() not in YAML:
            return (
                f"--configfile takes every word after it, so the target {file!r} was read as a "
                "configuration file.\n"
                f"Write the targets first, or after `--`: --configfile {files[0]} -- {file}"
            )
        try:
            if not read_config_file(file).values:
                return (
                    f"{file}:1: is empty, but `key: value` lines were expected; the shortest study "
                    "is `study: NAME` (config/README.md)"
                )
        except ConfigError as error:
            if Path(file).suffix.lower() != ".json" or not Path(file).is_file():
                return str(error)
    return None


def _config_files(arguments: Sequence[str]) -> Iterator[str]:
    """The words that Snakemake takes for names of configuration files."""
    taking = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if argument.startswith("-"):
            taking = argument in CONFIG_OPTIONS
            if equals and option in CONFIG_OPTIONS:
                yield value
                taking = True
        elif taking:
            yield argument
