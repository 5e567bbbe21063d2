"""Makes one stage again in a temporary folder, and compares its files with the results.

Snakemake runs in a copy of the repository, into which the verified upstream outputs are linked;
nothing under results/ is written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ablation.lineage.compare import Comparison, compare
from ablation.lineage.snakemake_environment import snakemake_environment
from ablation.provenance.files import sha256_file
from ablation.provenance.manifests import StaleInput, load_manifest, verify_outputs
from ablation.vocabulary.stages import STAGES, groups_in, stages_of

NOT_COPIED = {"results", "logs", "state", ".snakemake", ".git", ".venv"}


class CannotReproduce(RuntimeError):
    """The stage could not be made again; the message says why and what to do."""


@dataclass(frozen=True)
class Result:
    """The path and the content of a manifest."""

    path: Path
    manifest: dict


def reproduce(
    stage: str,
    study: str,
    tolerance: float,
    cores: str = "all",
    only: Sequence[str] = (),
    options: Sequence[str] = (),
) -> list[Comparison]:
    """Make a group of stages of results/<study> again and compare the results file by file.

    stage: a group of stages, such as `stage1`. only: parts of paths (`3B/seed31`) that restrict the
    results. options: further options for Snakemake. Raises StaleInput if anything upstream is not
    as it was made, and CannotReproduce if there is nothing to compare or Snakemake fails.
    """
    everything = _manifests(study)
    wanted = [
        result
        for result in everything
        if result.manifest["fingerprint"]["stage"] in stages_of(stage)
        and (not only or any(part in result.path.as_posix() for part in only))
    ]
    if not wanted:
        known = groups_in(result.manifest["fingerprint"]["stage"] for result in everything)
        chosen = f" with {' or '.join(only)} in its path" if only else ""
        raise CannotReproduce(
            f"results/{study} holds nothing of {stage}{chosen}; it holds {', '.join(known)}"
        )
    upstream = _upstream(wanted, everything)
    for result in [*upstream, *wanted]:
        _verify(result)
    with TemporaryDirectory(prefix="ablation-", dir=os.environ.get("TMPDIR")) as folder:
        copy = Path(folder)
        copy_repository(copy)
        for result in upstream:
            _link(result, copy)
        _run(copy, wanted, cores, options)
        return [found for result in wanted for found in _compare(result, copy, tolerance)]


def _manifests(study: str) -> list[Result]:
    paths = sorted((Path("results") / study).rglob("*manifest.json"))
    return [Result(path, load_manifest(path)) for path in paths]


def _upstream(wanted: Iterable[Result], everything: Iterable[Result]) -> list[Result]:
    """The results that the wanted ones are made from, down to the data, without the wanted ones."""
    known = {result.path.as_posix(): result for result in everything}
    own = {result.path for result in wanted}
    found: dict[Path, Result] = {}
    pending = [path for result in wanted for path in result.manifest["inputs"]]
    while pending:
        result = known.get(pending.pop())
        if result is None or result.path in found or result.path in own:
            continue
        found[result.path] = result
        pending += result.manifest["inputs"]
    return list(found.values())


def _verify(result: Result) -> None:
    verify_outputs(result.path, result.manifest)
    for name, sha256 in result.manifest["inputs"].items():
        if not Path(name).is_file() or sha256_file(name) != sha256:
            raise StaleInput(
                f"{result.path} was made from another {name} than today's: make it again first"
            )


def copy_repository(copy: Path) -> None:
    """Copy the repository, with uncommitted changes, but without results and environment."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
    )
    tracked = os.fsdecode(listed.stdout).split("\0")
    if listed.returncode == 0 and "Snakefile" in tracked:
        names = [name for name in tracked if name and Path(name).is_file()]
        names = [name for name in names if Path(name).parts[0] not in NOT_COPIED]
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, copy / name)
        return
    for path in Path(".").iterdir():  # without git, as on a rented machine
        if path.name in NOT_COPIED:
            continue
        if path.is_dir():
            shutil.copytree(path, copy / path, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(path, copy / path)


def _link(result: Result, copy: Path) -> None:
    """Link the files of a result into the copy of the repository."""
    for name in ["", *result.manifest["outputs"]]:
        source = result.path if not name else result.path.parent / name
        target = copy / os.path.relpath(source)
        if target.exists():
            continue  # a file of the repository, such as the shipped base
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:  # another file system
            shutil.copy2(source, target)


def _run(copy: Path, wanted: Sequence[Result], cores: str, options: Sequence[str]) -> None:
    rules = sorted({_rule_of(result) for result in wanted})
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--quiet", "reason", "host"]
    command += [*options, "--nolock", "--allowed-rules", *rules, "--"]
    command += [result.path.as_posix() for result in wanted]
    search = os.pathsep.join(filter(None, [str(copy / "src"), os.environ.get("PYTHONPATH")]))
    environment = snakemake_environment() | {"PYTHONPATH": search}
    done = subprocess.run(command, cwd=copy, env=environment, stdout=sys.stderr)
    if done.returncode:
        raise CannotReproduce(
            f"Snakemake could not make {rules[0]} again; its messages are above. Any study but "
            "the default one needs its --configfile"
        )


def _rule_of(result: Result) -> str:
    """The rule that makes a result."""
    fingerprint = result.manifest["fingerprint"]
    return STAGES[fingerprint["stage"]].rule_of(fingerprint["config"])


def _compare(result: Result, copy: Path, tolerance: float) -> Iterable[Comparison]:
    again = copy / result.path
    if load_manifest(again)["fingerprint"] != result.manifest["fingerprint"]:
        raise CannotReproduce(
            f"{result.path} was made by other code, configuration or packages than today's, so it "
            "cannot be compared. `snakemake -n` lists the jobs that are stale"
        )
    for name in result.manifest["outputs"]:
        old, new = result.path.parent / name, again.parent / name
        yield compare(old, new, tolerance)
