"""`ablation accept`: a refactoring that changes nothing is written into accepted.json."""

from __future__ import annotations

from pathlib import Path

from ablation.accepted import FILE, oldest, read, script_of
from ablation.code_hash import code_hash
from ablation.provenance import WORKFLOW_COPY, sealed_manifest, write_json


class NothingToAccept(ValueError):
    """There is no old code to accept; the message says why."""


def accept(stage: str, why: str, root: str | Path, results: str | Path) -> str:
    """Record that the code of `stage` makes what stands in `results`; says what that did.

    Raises NothingToAccept without a reason, without results of the stage, where the code has not
    changed, and where the results come from several codes: then not all can be equal to today's;
    StaleInput for a damaged manifest, ValueError for a damaged accepted.json.
    """
    root = Path(root)
    if not why.strip():
        raise NothingToAccept("--why: say why the refactoring changes no result; it is kept")
    found: dict[str, list[Path]] = {}
    stages = set()
    for path in sorted((root / results).rglob("*manifest.json")):
        if WORKFLOW_COPY in path.parts:
            continue
        stamp = sealed_manifest(path)["stamp"]
        stages.add(stamp.get("stage"))
        if stamp.get("stage") == stage:
            found.setdefault(stamp["code"], []).append(path)
    if not found:
        known = ", ".join(sorted(filter(None, stages))) or "none"
        raise NothingToAccept(
            f"{results} holds no results of {stage!r}; it holds those of: {known}"
        )
    entries = read(root)
    new = oldest(stage, code_hash(root / script_of(stage)), entries)
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
    if oldest(stage, old, entries) == new:
        raise NothingToAccept(
            f"{stage}: {paths[0].parent} was made by code that counts as equal already, but is "
            f"newer than the oldest of these ({new[:12]}). Make it again, once."
        )
    entries.append({"stage": stage, "old": old, "new": new, "why": why.strip()})
    write_json(root / FILE, entries)
    again = f"\n  {len(made_now)} made by today's code will be made again" if made_now else ""
    return (
        f"{stage}: code {new[:12]} counts as {old[:12]} from now on, because: {why.strip()}\n"
        f"  {len(paths)} results stand as they are, the first in {paths[0].parent}{again}\n"
        f"  {root / FILE} has {len(entries)} entries: commit it with the refactoring"
    )
