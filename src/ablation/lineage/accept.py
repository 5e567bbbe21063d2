"""`ablation accept`: records in accepted.json that a change of code changes no result."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from ablation.config.interventions import modules_of
from ablation.lineage.compare import IDENTICAL, Comparison
from ablation.provenance.accepted import (
    ACCEPTED_FILE,
    CHECKED,
    UNCHECKED,
    oldest_equal_code,
    read_accepted,
    unchecked_stages,
)
from ablation.provenance.code_hash import code_hash
from ablation.provenance.files import sha256_file, write_bytes, write_json
from ablation.provenance.manifests import WORKFLOW_COPY, load_manifest
from ablation.vocabulary.optimizers import unused_modules
from ablation.vocabulary.stages import script_of

# Makes the results of these manifests again and compares their files.
Again: TypeAlias = Callable[[Sequence[str]], Sequence[Comparison]]


class NothingToAccept(ValueError):
    """There is no older code to accept; the message says why."""


def accept(
    stage: str, why: str, root: str | Path, results: str | Path, again: Again | None = None
) -> str:
    """Record that the code of `stage` still makes the present results; returns a report.

    `results` is a folder below `root`; `why` is kept as the reason. `again` makes the results of
    some manifests again, in `root`, and compares their files; then the entry is `checked`, or
    nothing is recorded. With it, an entry that waits for this check is checked.

    Raises NothingToAccept without a reason, without results of the stage, if the code has not
    changed, if the results come from several older codes, which cannot all be equal to today's,
    and if a file that is made again is not identical. Raises StaleInput for a damaged manifest, and
    ValueError for a damaged accepted.json.
    """
    root = Path(root)
    found: dict[str, list[Path]] = {}
    stages: set[str] = set()
    chosen: set[tuple[frozenset[str], frozenset[str]]] = set()  # left out of the code, and added
    for path in sorted((root / results).rglob("*manifest.json")):
        if WORKFLOW_COPY in path.parts:
            continue
        fingerprint = load_manifest(path)["fingerprint"]
        stages.add(fingerprint.get("stage", ""))
        if fingerprint.get("stage") == stage:
            found.setdefault(fingerprint["code"], []).append(path)
            config = fingerprint["config"]
            chosen.add((unused_modules(config), modules_of(config.get("intervention"))))
    if not found:
        known = ", ".join(sorted(filter(None, stages))) or "none"
        raise NothingToAccept(
            f"{results} holds no results of {stage!r}; it holds those of: {known}"
        )
    entries = read_accepted(root)
    if len(chosen) > 1:
        raise NothingToAccept(
            f"{stage}: these results come from several optimizers or interventions, whose code is "
            "hashed separately. Choose those of one of them with --results"
        )
    unused, added = chosen.pop()
    code = code_hash(root / script_of(stage), leave_out=unused, by_name=added)
    new = oldest_equal_code(stage, code, entries)
    if again and new in found and new != code:
        entry = next(e for e in entries if (e["stage"], e["new"]) == (stage, code))
        return _check(entry, found[new], entries, root, again)
    if not why.strip():
        raise NothingToAccept(
            "--why is empty: give the reason why the change of code changes no result"
        )
    made_now = found.pop(new, [])
    if not found:
        raise NothingToAccept(f"{stage}: the code has not changed since its results were made")
    if len(found) > 1:
        several = "\n".join(f"  {c[:12]}: {paths[0].parent}" for c, paths in found.items())
        raise NothingToAccept(
            f"{stage}: its results come from several older versions of the code, which cannot all "
            f"be equal to today's. Choose those of one with --results:\n{several}"
        )
    ((old, paths),) = found.items()
    if oldest_equal_code(stage, old, entries) == new:
        raise NothingToAccept(
            f"{stage}: {paths[0].parent} was made by code that is accepted already, but "
            f"newer than the oldest of these ({new[:12]}). Run this stage again once."
        )
    entry = {"stage": stage, "old": old, "new": new, "why": why.strip()}
    entries.append(entry)
    if again:
        checked = _check(entry, paths, entries, root, again)
    else:
        write_json(root / ACCEPTED_FILE, entries)
        marks = "Snakemake makes the tables, figures and pages of these results again, so marked"
        checked = f"{UNCHECKED.format(stage=stage)}\n  {marks}"
    remade = f"\n  {len(made_now)} results of today's code will be made again" if made_now else ""
    return (
        f"{stage}: code {new[:12]} counts as {old[:12]} from now on, because: {why.strip()}\n"
        f"  {len(paths)} results stay valid, the first in {paths[0].parent}{remade}\n"
        f"  {checked}\n"
        f"  {root / ACCEPTED_FILE} has {len(entries)} entries: commit it with the change"
    )


def _check(
    entry: dict, manifests: Sequence[Path], entries: list[dict], root: Path, again: Again
) -> str:
    """Make the results again; write the entries if all are identical, else the former ones."""
    file = root / ACCEPTED_FILE
    before = file.read_bytes() if file.is_file() else None
    write_json(file, entries)  # else the copy of the repository would make other fingerprints
    paths = [path.relative_to(root).as_posix() for path in manifests]
    try:
        compared = again(paths)
        for comparison in compared:
            if comparison.outcome != IDENTICAL:
                raise NothingToAccept(
                    f"{entry['stage']}: made again, {comparison}. Nothing changed"
                )
    except BaseException:
        file.unlink()
        if before is not None:
            write_bytes(file, before)
        raise
    entry[CHECKED] = {path: sha256_file(root / path) for path in paths}
    write_json(file, entries)
    return f"checked: {len(compared)} files of {len(paths)} results, made again, are identical"


# ---- what rests on it ---------------------------------------------------------------------------


def unchecked_among(manifests: Iterable[Path], root: Path) -> list[str]:
    """The stages of those manifests for which accepted.json has no more than a reason."""
    fingerprints = {
        os.path.relpath(path, root).replace(os.sep, "/"): load_manifest(path)["fingerprint"]
        for path in manifests
    }
    return unchecked_stages(fingerprints, root)


def unchecked_behind(manifest: Path, root: Path) -> list[str]:
    """The `unchecked_among` a manifest and everything that it was made from."""
    pending, behind = [manifest], set()
    while pending:
        path = pending.pop()
        if path not in behind and path.is_file():
            behind.add(path)
            pending += [root / name for name in load_manifest(path)["inputs"]]
    return unchecked_among(behind, root)
