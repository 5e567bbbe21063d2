"""Dry runs of Snakemake, each in a fork of a process that has imported it.

More than half of a dry run is the import of Snakemake and of what its plugins stand on. The forked
process reads the checkout's rules and modules afresh, as one of a user does.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["snakemake.cli", "snakemake_storage_plugin_s3", "snakemake_executor_plugin_slurm"]
)


def _snakemake(
    arguments: Sequence[str], folder: Path, environment: dict[str, str], said: str
) -> None:
    file = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ |= environment
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    for name in [name for name in sys.modules if name.split(".")[0] == "ablation"]:
        del sys.modules[name]  # Snakemake has imported our plugins, with modules of another folder
    from snakemake.cli import main

    main([*arguments])


def dry_run(arguments: Sequence[str], folder: Path, environment: dict[str, str]):
    """What `snakemake ARGUMENTS`, with a -n, prints in `folder`; `stdout` holds both streams."""
    with NamedTemporaryFile("r+") as said:
        given = (arguments, folder, environment, said.name)
        process = FORKS.Process(target=_snakemake, args=given)
        process.start()
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode, said.read(), "")
