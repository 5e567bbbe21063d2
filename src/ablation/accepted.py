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


def read(root: str | Path) -> list[dict]:
    """The entries of `root`/accepted.json, none where there is no file. ValueError if malformed."""
    file = Path(root) / FILE
    try:
        entries = json.loads(file.read_text("utf-8")) if file.is_file() else []
        if isinstance(entries, list) and all(set(entry) == KEYS for entry in entries):
            return entries
        fault = "something else found"
    except (ValueError, TypeError) as found:  # a conflict of a merge, for one
        fault = str(found)
    raise ValueError(
        f"{file}: {fault}; a list of objects with the keys {', '.join(sorted(KEYS))} was expected: "
        "mend it, or restore the committed one"
    )


def oldest(stage: str, code: str, entries: Sequence[Mapping]) -> str:
    """The oldest code of `stage` that counts as `code`; `code` itself when none was accepted."""
    older = {entry["new"]: entry["old"] for entry in entries if entry["stage"] == stage}
    while code in older:
        code = older.pop(code)  # popped: a circle, written by hand, ends too
    return code
