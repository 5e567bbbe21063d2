"""Refactorings that are known to change nothing: accepted.json at the root of the repository.

Each entry says that a stage's `new` code makes the results that its `old` code made, and why. A
stamp then names the oldest of the codes that count as one, so that neither Snakemake's params nor
the manifests change: nothing runs again. Committed, the file holds for every clone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE = "accepted.json"
KEYS = {"stage", "old", "new", "why"}

# The script of each stage that does not bear its name; any other's is workflow/scripts/<stage>.py.
SCRIPTS = {
    "base_items": "items",
    "base_instructions": "instructions",
    "base_pretrain": "pretrain",
    "bridge_source": "base",
    "bridge_target": "base",
    "stage1_baseline": "evaluate",
    "stage2_ablation": "evaluate",
    "stage3_finetune": "finetune",
    "stage4_posteval": "evaluate",
    "stage5_longrun": "finetune",
    "stage5_posteval": "evaluate",
}


def script_of(stage: str) -> str:
    """The script behind a stage, from the root of the repository."""
    return f"workflow/scripts/{SCRIPTS.get(stage, stage)}.py"


class NothingToAccept(ValueError):
    """There is no old code to accept; the message says why."""


def read(root: str | Path) -> list[dict]:
    """The entries of `root`/accepted.json, none where there is no file. ValueError if malformed."""
    file = Path(root) / FILE
    entries = json.loads(file.read_text()) if file.is_file() else []
    if not isinstance(entries, list) or any(set(entry) != KEYS for entry in entries):
        raise ValueError(f"{file}: a list of objects with the keys {sorted(KEYS)} was expected")
    return entries


def oldest(stage: str, code: str, entries: Sequence[Mapping]) -> str:
    """The oldest code of `stage` that counts as `code`; `code` itself when none was accepted."""
    older = {entry["new"]: entry["old"] for entry in entries if entry["stage"] == stage}
    while code in older:
        code = older.pop(code)  # popped: a circle, written by hand, ends too
    return code


def accept(stage: str, why: str, root: str | Path, results: str | Path) -> str:
    """Record that the code of `stage` makes what stands in `results`; says what that did.

    Raises NothingToAccept without a reason, without results of the stage, where the code has not
    changed, and where the results come from several codes: then not all can be equal to today's.
    """
    from ablation.code_hash import code_hash
    from ablation.provenance import WORKFLOW_COPY, write_json  # it reads accepted.json through us

    root = Path(root)
    if not why.strip():
        raise NothingToAccept("--why: say why the refactoring changes no result; it is kept")
    found: dict[str, list[Path]] = {}
    stages = set()
    for path in sorted((root / results).rglob("*manifest.json")):
        if WORKFLOW_COPY in path.parts:
            continue
        stamp = json.loads(path.read_text()).get("stamp", {})
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
