"""Runs in a folder of the user's: `-s CLONE/Snakefile -d FOLDER`, a `module`, `ablation init`.

Manifests name what the repository ships by paths relative to the folder of the run, so that results
can be moved and compared. In another folder than the repository's, links stand for these paths.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = ("resources", "config/tasks")


class WrongPlace(ValueError):
    """Snakemake was started where results of this workflow cannot stand."""


def link_shipped(root: Path, folder: Path = Path()) -> None:
    """Make `resources` and `config/tasks` in `folder` links to those of the repository `root`.

    Does nothing in the repository itself. Raises WrongPlace if something else stands there.
    """
    if not (root / SHIPPED[0]).is_dir():
        raise WrongPlace(
            f"{root} is no folder of this machine with the workflow and its resources. Clone the "
            "repository and name the Snakefile of the clone, or use `ablation init FOLDER`"
        )
    for name in SHIPPED:
        here, shipped = folder / name, (root / name).resolve()
        if here.resolve() == shipped:
            continue
        if here.exists() or here.is_symlink():
            raise WrongPlace(
                f"{here.absolute()} is there, where the workflow needs a link to {shipped}. Rename "
                "yours, or run in another folder. Task files of your own belong into "
                f"{root / 'config/tasks'}"
            )
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(shipped)
