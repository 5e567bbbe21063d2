"""Manifests: the stable record of a job, with the hashes of everything that its results depend on.

Each job writes two records. `manifest.json` is stable: equal work gives equal bytes, and later
stages take it as their input. `run.json` (`ablation.provenance.run_records`) describes what
happened in one run: times, machine, energy. No rule depends on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ablation.provenance.files import (
    SCHEMA_VERSION,
    canonical_json,
    file_table,
    sha256_file,
    sha256_text,
    visible_files,
    write_json,
)
from ablation.provenance.next_actions import command_for

# The folder in results/ with the files of the workflow that an RO-Crate contains; it is no study.
WORKFLOW_COPY = "_workflow"
# The files of `ablation seal` in the folder of a study; no rule depends on them.
SEAL, SIGNATURE = "seal.json", "seal.json.sig"
# A list in the folder of a study: data files that were left out of the archive it came from.
LEFT_OUT = "left_out.json"
# What the manifest of a checkpoint says of its training, and those of its scores repeat. records:
# sha256 of the file of finetuning records. families: the families of these records.
TRAINING_FACTS = ("recipe", "seed", "train_leaks", "steps", "records", "families")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")

Manifest = dict[str, Any]


class StaleInput(RuntimeError):
    """An input was made by other configuration or code than the present one, or has changed."""


class FileEntry(BaseModel):
    """What manifests and pushes record of a file."""

    model_config = ConfigDict(strict=True)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0, lt=2**63)


class _Fingerprint(BaseModel):
    model_config = ConfigDict(strict=True)
    stage: str
    code: str
    config: dict[str, Any]
    packages: dict[str, str]
    upstream: dict[str, str]
    hash: str


class _Form(BaseModel):
    """What every reader of a manifest relies on; it may come from a store of somebody else."""

    fingerprint: _Fingerprint
    inputs: dict[str, str]
    outputs: dict[str, FileEntry]


# ---- writing --------------------------------------------------------------------------------


def write_manifest(
    path: str | Path,
    fingerprint: Mapping,
    outputs: Iterable[str | Path],
    **facts: object,
) -> None:
    """Write the manifest of a job: its fingerprint, the hashes of inputs and outputs, and `facts`.

    The inputs are the manifests that the fingerprint names as `upstream`. Paths of outputs are
    relative to the folder of the manifest, so that results can be moved.
    """
    home = Path(path).parent
    table = {os.path.relpath(file, home): entry for file, entry in file_table(outputs).items()}
    body = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": dict(fingerprint),
        "inputs": {path: sha256_file(path) for path in fingerprint["upstream"]},
        "outputs": table,
        **facts,
    }
    write_json(path, {**body, "sha256": _own_hash(body)})


def _own_hash(manifest: Mapping) -> str:
    """The value that the entry `sha256` of an unedited manifest has.

    It protects entries that no file repeats, such as the result of a leak audit.
    """
    return sha256_text(canonical_json({k: v for k, v in manifest.items() if k != "sha256"}))


# ---- reading --------------------------------------------------------------------------------


def read_inputs(fingerprint: Mapping, only: Container[str] | None = None) -> dict[str, Manifest]:
    """{path: manifest} of all inputs that a fingerprint names, each verified by `read_manifest`."""
    upstream = fingerprint["upstream"].items()
    return {path: read_manifest(path, expected, only) for path, expected in upstream}


def read_manifest(path: str | Path, expected: str, only: Container[str] | None = None) -> Manifest:
    """Read a manifest, and verify its inputs, its outputs, and that its fingerprint is `expected`.

    If `only` is given, these outputs are verified; the others may be missing, such as weights.

    Raises StaleInput when the manifest was made by another configuration or code (so stale results
    are refused even after `snakemake --touch`), was made from other inputs than the present ones,
    or has been edited, and when an output is missing, has changed, or is not in the manifest.
    """
    path = Path(path)
    manifest = _parse_manifest(path)
    found = manifest["fingerprint"]["hash"]
    if found != expected:
        raise StaleInput(
            f"{path} was made by another configuration or code than the current one (fingerprint "
            f"{found[:12]}, expected {expected[:12]}). {_next_action(path)}"
        )
    _refuse_edited(path, manifest)
    _refuse_other_inputs(path, manifest)
    verify_outputs(path, manifest, only)
    return manifest


def verify_history(manifests: Iterable[Mapping]) -> None:
    """Verify everything that `manifests` were made from, down to the data.

    Files that are not here are left out, such as removed weights. Raises StaleInput.
    """
    pending = [path for manifest in manifests for path in manifest["inputs"]]
    verified: set[str] = set()
    while pending:
        path = pending.pop()
        if path in verified or not Path(path).is_file():
            continue
        verified.add(path)
        manifest = load_manifest(path)
        _refuse_other_inputs(path, manifest)
        verify_outputs(path, manifest, outputs_here(path, manifest))
        pending += manifest["inputs"]


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest of any configuration and code, and verify only that it was not edited.

    Raises StaleInput, which names the file, if it was edited or is no manifest.
    """
    manifest = _parse_manifest(Path(path))
    _refuse_edited(path, manifest)
    return manifest


def _refuse_edited(path: str | Path, manifest: Mapping) -> None:
    if manifest.get("sha256") != _own_hash(manifest):
        raise StaleInput(
            f"{path} has been edited: its entry `sha256` does not match. {_next_action(path)}"
        )


def _refuse_other_inputs(path: str | Path, manifest: Mapping) -> None:
    for name, sha256 in manifest["inputs"].items():
        if Path(name).is_file() and sha256_file(name) != sha256:
            raise StaleInput(
                f"{path} was made from another {name} than the current one. {_next_action(path)}"
            )


def _parse_manifest(path: Path) -> Manifest:
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        manifest = json.loads(path.read_text("utf-8"))
        if (version := manifest["schema_version"]) != SCHEMA_VERSION:
            raise StaleInput(
                f"{path} was written by another version of ablation (schema_version {version} "
                f"found, {SCHEMA_VERSION} expected). {_next_action(path)}"
            )
        _Form.model_validate(manifest)
        return manifest
    raise StaleInput(f"{path} is no manifest: missing, cut off or edited. {_next_action(path)}")


def verify_outputs(path: str | Path, manifest: Mapping, only: Container[str] | None = None) -> None:
    """Raise StaleInput, which names the file, unless all outputs have the recorded bytes.

    A file that the manifest does not list, in a folder of its outputs, is refused too. If `only` is
    given, the other outputs are not verified.
    """
    for problem in output_problems(path, manifest, only):
        raise StaleInput(problem)


def outputs_here(path: str | Path, manifest: Mapping) -> set[str]:
    """The names of all outputs of a manifest, but for removed weights and data left out.

    Weights may be removed alone, or with the whole folder of their checkpoint below that of the
    manifest: Snakemake trains again if a job needs it. The files of a base in a folder outside the
    repository are left out, too, if it is not here.
    """
    home = Path(path).parent
    gone = {name for name in manifest["outputs"] if not (home / name).is_file()}
    weights = removed_weights(gone, home)
    left_out = _left_out(home) if gone > weights else set()
    may_lack = weights | {n for n in gone if os.path.normpath(home / n) in left_out}
    may_lack |= {n for n in gone if _is_in_an_absent_folder_elsewhere(home, n)}
    return set(manifest["outputs"]) - may_lack


def removed_weights(absent: Iterable[str], home: Path) -> set[str]:
    """The weights among absent files, and what was removed with the whole folder of a checkpoint.

    absent: names relative to `home`, below which the folder of a checkpoint must have been.
    """
    absent = set(absent)
    weights = {name for name in absent if Path(name).suffix in WEIGHT_SUFFIXES}
    folders = {Path(name).parent for name in weights if ".." not in Path(name).parts} - {Path()}
    removed = {folder for folder in folders if not os.path.lexists(home / folder)}
    return weights | {name for name in absent if removed.intersection(Path(name).parents)}


def _is_in_an_absent_folder_elsewhere(home: Path, name: str) -> bool:
    """Whether an output is in a folder outside the repository that does not exist here."""
    folder = Path(os.path.abspath(home / name)).parent
    repository = next(
        (f.parent for f in Path(os.path.abspath(home)).parents if f.name == "results"), None
    )
    return repository is not None and not folder.is_relative_to(repository) and not folder.is_dir()


def _left_out(folder: Path) -> set[str]:
    """The files that LEFT_OUT lists, in `folder` or the nearest folder above that has it."""
    for home in (folder, *folder.parents):
        if (home / LEFT_OUT).is_file():
            with suppress(ValueError, TypeError, RecursionError):
                names = json.loads((home / LEFT_OUT).read_text("utf-8"))
                return {os.path.normpath(home / name) for name in names}
            raise StaleInput(f"{home / LEFT_OUT} is no list of files. Pull the archive again")
    return set()


def output_problems(
    path: str | Path, manifest: Mapping, only: Container[str] | None = None
) -> Iterator[str]:
    """One sentence for each output for which `verify_outputs` raises an error."""
    home, listed = Path(path).parent, manifest["outputs"]
    recorded = {n: entry for n, entry in listed.items() if only is None or n in only}
    for name, entry in recorded.items():
        file = home / name
        if not file.is_file():
            yield (
                f"{file} is missing, but {path} lists it. It was removed, or `ablation push` left "
                f"it out (keep_weights). {_next_action(path)}"
            )
            continue
        size = file.stat().st_size
        if size != entry["bytes"] or sha256_file(file) != entry["sha256"]:
            yield (
                f"{file} has changed since {path} was written ({size} bytes now, "
                f"{entry['bytes']} then, or other content). {_next_action(path)}"
            )
    for folder in {(home / name).parent for name in recorded if "/" in name}:
        for file in visible_files(folder):
            if os.path.relpath(file, home) not in recorded:
                yield f"{file} is not in {path}. Remove it. Or: {_next_action(path)}"


# ---- next actions ---------------------------------------------------------------------------


def _next_action(path: str | Path) -> str:
    return f"Restore it, or make it again: {command_for(path)}"
