"""Verifies a whole study: every file by its manifest, and every manifest by the seal, if any.

Without a signed seal, results that were edited and sealed again consistently are not found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ablation.lineage.accept import unchecked_among
from ablation.lineage.lineage import check_input
from ablation.lineage.seal import CannotSign, changes_since_seal, signed_by
from ablation.provenance.files import sha256_file
from ablation.provenance.manifests import (
    SEAL,
    SIGNATURE,
    StaleInput,
    load_manifest,
    output_problems,
    outputs_here,
)
from ablation.provenance.next_actions import command_for
from ablation.provenance.tables import read_table


@dataclass
class Verified:
    """What `verify` has found.

    problems: one sentence for each file that is not as it was made or sealed. seal: whether the
    study is sealed and signed. unchecked: stages whose code was accepted without a reproduction.
    """

    manifests: int = 0
    files: int = 0
    without: list[str] = field(default_factory=list)  # removed weights, and data left out
    problems: list[str] = field(default_factory=list)
    seal: str = ""
    unchecked: list[str] = field(default_factory=list)


def verify(home: Path, signers: Path | None = None) -> Verified:
    """Hash everything in the folder of a study again, and compare it with manifests and seal.

    signers: the allowed-signers file that the signature must satisfy.
    """
    found = edited(home)
    found.seal = _seal(home, signers, found.problems)
    return found


def edited(home: Path) -> Verified:
    """As `verify`, without the seal."""
    found, root = Verified(), folder_above_results(home)
    whole: list[Path] = []
    for path in sorted(home.rglob("*manifest.json")):
        found.manifests += 1
        try:
            manifest = load_manifest(path)
        except StaleInput as error:
            found.problems.append(str(error))
            continue
        whole.append(path)
        here = outputs_here(path, manifest)
        found.files += len(here)
        found.without += [str(path.parent / name) for name in set(manifest["outputs"]) - here]
        found.problems += output_problems(path, manifest, here)
        found.problems += _other_inputs(path, manifest["inputs"], root)
    found.problems += _other_copy(home)
    found.unchecked = unchecked_among(whole, root)
    return found


def folder_above_results(home: Path) -> Path:
    """The folder in which Snakemake ran, to which the paths in manifests are relative."""
    parents = Path(os.path.abspath(home)).parents
    return next((folder.parent for folder in parents if folder.name == "results"), parents[1])


def _other_inputs(path: Path, inputs: dict[str, str], root: Path) -> Iterator[str]:
    for name, recorded in inputs.items():
        if not (root / name).is_file():
            yield f"{name} is missing, from which {path} was made"
            continue
        try:
            check_input(name, sha256_file(root / name), recorded, str(path))
        except StaleInput as error:
            yield str(error)


def _other_copy(home: Path) -> Iterator[str]:
    """Whether results/recovery.csv, unless it is another study's, has the bytes of this study's."""
    copy, manifest = home.parent / "recovery.csv", home / "recovery.manifest.json"
    if not (copy.is_file() and manifest.is_file()):
        return
    try:
        study = str(read_table(copy, ["study"]).study.iloc[0])
        if study != home.name and (home.parent / study).is_dir():
            return
        if sha256_file(copy) != load_manifest(manifest)["outputs"]["recovery.csv"]["sha256"]:
            yield (
                f"{copy} is not the table of {manifest}. Make it again: "
                f"{command_for(copy, study=home.name)}"
            )
    except (StaleInput, ValueError) as error:
        yield str(error)


def _seal(home: Path, signers: Path | None, problems: list[str]) -> str:
    """One line about the seal; what is wrong with it is added to `problems`."""
    if not (home / SEAL).is_file():
        if signers:
            problems.append(
                f"{home / SEAL} is missing, which a key in {signers} should have signed"
            )
        return "unsigned: no seal.json (`ablation seal --key FILE` writes and signs one)"
    if not (home / SIGNATURE).is_file():
        if signers:
            problems.append(f"{home / SIGNATURE} is missing: nobody has signed {home / SEAL}")
        said = "unsigned: seal.json has no signature (`ablation seal --key FILE` signs it)"
    elif signers is None:
        said = "signed, but the signature was not verified (name who may sign by --signers FILE)"
    else:
        try:
            said = f"signed by {signed_by(home, signers)}"
        except CannotSign as error:
            problems.append(str(error))
            said = "not signed by a key that is allowed"
    try:
        problems += changes_since_seal(home)
    except StaleInput as error:
        problems.append(str(error))
    return said
