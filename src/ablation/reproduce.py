"""Make one stage again, beside the results, from what stands upstream of it, and compare.

Snakemake runs in a copy of the repository in a temporary folder, into which the verified upstream
outputs were linked: nothing under results/ is written.
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

from ablation.compare import Verdict, compare
from ablation.provenance import StaleInput, sealed_manifest, sha256_file, verify_outputs

# What a stage of the study is made of, as the `stage` of manifests' stamps.
STAGES = {
    "base": ("base", "base_items", "base_instructions", "base_pretrain", "base_random")
    + ("fetch_items", "fetch_instructions", "generate_items", "generate_instructions"),
    "stage1": ("stage1_baseline",),
    "stage2": ("stage2_ablation",),
    "stage3": ("stage3_finetune",),
    "stage4": ("stage4_posteval",),
    "stage5": ("stage5_longrun", "stage5_posteval"),
    "recovery": ("recovery", "bag_of_words", "published"),
    "figures": ("flips", "curves", "mask_cells", "figures"),
}
NOT_COPIED = {"results", "logs", "state", ".snakemake", ".git", ".venv"}


class CannotReproduce(RuntimeError):
    """The stage could not be made again; the message says why and what to do."""


@dataclass(frozen=True)
class Made:
    """A result of the stage and what it stands on."""

    path: Path
    manifest: dict


def reproduce(
    stage: str,
    study: str,
    tolerance: float,
    cores: str = "all",
    only: Sequence[str] = (),
    options: Sequence[str] = (),
) -> list[Verdict]:
    """Make `stage` of results/<study> again and compare file by file: a verdict a file.

    only: parts of paths (`3B/seed31`), to make fewer. options: further ones of Snakemake.
    Raises StaleInput for anything upstream that is not as it was made, CannotReproduce where there
    is nothing to compare or Snakemake fails.
    """
    everything = _manifests(study)
    wanted = [
        made
        for made in everything
        if made.manifest["stamp"]["stage"] in STAGES[stage]
        and (not only or any(part in made.path.as_posix() for part in only))
    ]
    if not wanted:
        there = {made.manifest["stamp"]["stage"] for made in everything}
        known = [name for name, parts in STAGES.items() if there & set(parts)]
        chosen = f" with {' or '.join(only)} in its path" if only else ""
        raise CannotReproduce(
            f"results/{study} holds nothing of {stage}{chosen}; it holds {', '.join(known)}"
        )
    upstream = _upstream(wanted, everything)
    for made in [*upstream, *wanted]:
        _verify(made)
    with TemporaryDirectory(prefix="ablation-", dir=os.environ.get("TMPDIR")) as folder:
        side = Path(folder)
        copy_repository(side)
        for made in upstream:
            _link(made, side)
        _run(side, wanted, cores, options)
        return [verdict for made in wanted for verdict in _compared(made, side, tolerance)]


def _manifests(study: str) -> list[Made]:
    paths = sorted((Path("results") / study).rglob("*manifest.json"))
    return [Made(path, sealed_manifest(path)) for path in paths]


def _upstream(wanted: Iterable[Made], everything: Iterable[Made]) -> list[Made]:
    """What the wanted results stand on, down to the data, without themselves.

    A table that another table is read from (recovery.csv) counts by its files.
    """
    known = {made.path.as_posix(): made for made in everything}
    own = {made.path for made in wanted}
    found: dict[Path, Made] = {}
    pending = [path for made in wanted for path in made.manifest["inputs"]]
    while pending:
        made = known.get(pending.pop())
        if made is None or made.path in found or made.path in own:
            continue
        found[made.path] = made
        pending += made.manifest["inputs"]
    return list(found.values())


def _verify(made: Made) -> None:
    verify_outputs(made.path, made.manifest)
    for name, sha256 in made.manifest["inputs"].items():
        if not Path(name).is_file() or sha256_file(name) != sha256:
            raise StaleInput(
                f"{made.path} was made from another {name} than today's: make it again first"
            )


def copy_repository(side: Path) -> None:
    """The workflow as it stands here, changes included, without results and environment."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0 and "Snakefile" in listed.stdout.split("\0"):
        names = [name for name in listed.stdout.split("\0") if name and Path(name).is_file()]
        names = [name for name in names if Path(name).parts[0] not in NOT_COPIED]
        for name in names:
            (side / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, side / name)
        return
    for path in Path(".").iterdir():  # no repository of git: a copy on another machine
        if path.name in NOT_COPIED:
            continue
        if path.is_dir():
            shutil.copytree(path, side / path, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(path, side / path)


def _link(made: Made, side: Path) -> None:
    """The files of a result in the side folder, without a second copy of their bytes."""
    for name in ["", *made.manifest["outputs"]]:
        source = made.path if not name else made.path.parent / name
        target = side / os.path.relpath(source)
        if target.exists():
            continue  # the repository's own: the shipped base
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:  # another file system
            shutil.copy2(source, target)


def _run(side: Path, wanted: Sequence[Made], cores: str, options: Sequence[str]) -> None:
    rules = sorted({rule for made in wanted for rule in _rules(made)})
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--quiet", "reason", "host"]
    command += [*options, "--nolock", "--allowed-rules", *rules, "--"]
    command += [made.path.as_posix() for made in wanted]
    search = os.pathsep.join(filter(None, [str(side / "src"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": search}
    done = subprocess.run(command, cwd=side, env=environment, stdout=sys.stderr)
    if done.returncode:
        raise CannotReproduce(
            f"Snakemake could not make {rules[0]} again (its messages stand above). A study other "
            "than the default one needs its --configfile"
        )


def _rules(made: Made) -> list[str]:
    """The rules that make a result: most bear the name of its stage."""
    stage = made.manifest["stamp"]["stage"]
    if stage == "figures":
        return [f"figure_{made.manifest['stamp']['config']['figure']}"]
    brought = {"items": "base_benchmarks", "instructions": "base_instructions"}
    verb, _, what = stage.partition("_")
    return [brought[what]] if verb in ("fetch", "generate") else [stage]


def _compared(made: Made, side: Path, tolerance: float) -> Iterable[Verdict]:
    again = side / made.path
    if sealed_manifest(again)["stamp"] != made.manifest["stamp"]:
        raise CannotReproduce(
            f"{made.path} was made by other code, configuration or packages than today's: nothing "
            "can be said of it. `snakemake -n` tells what is to be made again"
        )
    for name in made.manifest["outputs"]:
        old, new = made.path.parent / name, again.parent / name
        yield compare(old, new, tolerance)
