"""`ablation accept`: records in accepted.json that a change of code changes no result."""

from __future__ import annotations

from pathlib import Path

from ablation.provenance.accepted import ACCEPTED_FILE, oldest_equal_code, read_accepted
from ablation.provenance.code_hash import code_hash
from ablation.provenance.files import write_json
from ablation.provenance.manifests import WORKFLOW_COPY, load_manifest
from ablation.vocabulary.optimizers import unused_modules
from ablation.vocabulary.stages import script_of


class NothingToAccept(ValueError):
    """There is no older code to accept; the message says why."""


def accept(stage: str, why: str, root: str | Path, results: str | Path) -> str:
    """Record that the code of `stage` still makes the present results; returns a report.

    `results` is a folder below `root`; `why` is kept as the reason. Raises NothingToAccept without
    a reason, without results of the stage, if the code has not changed, and if the results come
    from several older codes, which cannot all be equal to today's. Raises StaleInput for a damaged
    manifest, and ValueError for a damaged accepted.json.
    """
    root = Path(root)
    if not why.strip():
        raise NothingToAccept(
            "--why is empty: give the reason why the change of code changes no result"
        )
    found: dict[str, list[Path]] = {}
    stages: set[str] = set()
    unused: set[frozenset[str]] = set()
    for path in sorted((root / results).rglob("*manifest.json")):
        if WORKFLOW_COPY in path.parts:
            continue
        fingerprint = load_manifest(path)["fingerprint"]
        stages.add(fingerprint.get("stage", ""))
        if fingerprint.get("stage") == stage:
            found.setdefault(fingerprint["code"], []).append(path)
            unused.add(unused_modules(fingerprint["config"]))
    if not found:
        known = ", ".join(sorted(filter(None, stages))) or "none"
        raise NothingToAccept(
            f"{results} holds no results of {stage!r}; it holds those of: {known}"
        )
    entries = read_accepted(root)
    if len(unused) > 1:
        raise NothingToAccept(
            f"{stage}: these results come from several optimizers, whose code is hashed "
            "separately. Choose those of one optimizer with --results"
        )
    new = oldest_equal_code(
        stage, code_hash(root / script_of(stage), leave_out=unused.pop()), entries
    )
    made_now = found.pop(new, [])
    if not found:
        raise NothingToAccept(f"{stage}: the code has not changed since its results were made")
    if len(found) > 1:
        several = "\n".join(f"  {c[:12]}: {paths[0].parent}" for c, paths in found.items())
        raise NothingToAccept(
            f"{stage}: results of several older codes, which cannot all be equal to today's. "
            f"Choose some with --results:\n{several}"
        )
    ((old, paths),) = found.items()
    if oldest_equal_code(stage, old, entries) == new:
        raise NothingToAccept(
            f"{stage}: {paths[0].parent} was made by code that is accepted already, but "
            f"newer than the oldest of these ({new[:12]}). Run this stage again once."
        )
    entries.append({"stage": stage, "old": old, "new": new, "why": why.strip()})
    write_json(root / ACCEPTED_FILE, entries)
    again = f"\n  {len(made_now)} results of today's code will be made again" if made_now else ""
    return (
        f"{stage}: code {new[:12]} counts as {old[:12]} from now on, because: {why.strip()}\n"
        f"  {len(paths)} results stay valid, the first in {paths[0].parent}{again}\n"
        f"  {root / ACCEPTED_FILE} has {len(entries)} entries: commit it with the change"
    )
