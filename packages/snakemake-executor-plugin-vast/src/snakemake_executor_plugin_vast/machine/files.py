"""Which files may travel between this computer and a machine. No link is followed on either way."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from . import onboard


class Damaged(Exception):
    """A transferred file differs from the one on the machine."""


def links_out(path: str) -> list[str]:
    """The links at `path` or below it that lead elsewhere. On a machine their targets are missing.

    Their targets must not be sent either, since they may hold secrets of this computer.
    """
    root = os.path.realpath(path) + os.sep
    links = onboard.links_below(path)
    return [link for link in links if not os.path.realpath(link).startswith(root)]


def accept(arrivals: str, paths: Iterable[str], files: dict[str, str] | None, workdir: str) -> None:
    """Move what was copied into the folder `arrivals` to its places, the absolute `paths`.

    `files` has the hashes that were taken on the machine, by paths relative to `workdir`; files
    without a hash are removed. Raises Damaged, before anything is moved. None: no file is compared.
    """
    if files is not None:
        expected = {os.path.normpath(os.path.join(workdir, n)): files[n] for n in files}
        for file in onboard.files_below(arrivals):
            if file.removeprefix(arrivals) not in expected:
                os.unlink(file)
        for place, digest in expected.items():
            name = os.path.relpath(place, workdir)
            if not os.path.isfile(arrivals + place):
                raise Damaged(f"{name} was not transferred")
            if onboard.sha256(arrivals + place) != digest:
                raise Damaged(f"{name} was damaged during the transfer")
    for path in sorted(paths, key=len):  # a folder before what is in it
        if os.path.lexists(arrivals + path):
            onboard.remove(path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.move(arrivals + path, path)


def manifest(workdir: Path, known: Iterable[str], largest: float) -> tuple[list[str], list[str]]:
    """The sources of a workflow below `workdir`: (relative paths, what was left out and why).

    All files that git tracks or could track, hence not the ignored ones, and the files `known` to
    Snakemake. `largest` is in bytes.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard", "--deduplicate", "."],
        cwd=workdir,
        capture_output=True,
    )
    names = listed.stdout.decode(errors="replace").split("\0") if not listed.returncode else []
    kept, left_out = [], []
    for name in sorted({os.path.normpath(n) for n in [*names, *known] if n}):
        path = workdir / name
        if name.startswith("..") or os.path.isabs(name):
            left_out.append(f"{name}: outside the working directory")
        elif path.is_symlink() and not path.resolve().is_relative_to(workdir.resolve()):
            left_out.append(f"{name}: a link that leads out of the working directory")
        elif path.is_file() and path.stat().st_size > largest:
            left_out.append(f"{name}: {path.stat().st_size / 1e6:.0f} MB")
        elif path.is_file() or path.is_symlink() and path.exists():
            kept.append(name)
    return kept, left_out
