"""accepted.json: refactorings that are known to change no result of a stage.

The file is at the root of the repository and is committed. Each entry states that the `new` code of
a `stage` makes the same results as the `old` code, and `why`. The fingerprint of the stage then
names the oldest of its equal codes. So neither fingerprints nor manifests change, and Snakemake
runs nothing again. `checked` is {path of a manifest: sha256} of the results that the new code made
again identically; an entry without it rests on its reason alone, and every table that rests on
such results has a column `unchecked` with their stages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablation.provenance.files import sha256_file

ACCEPTED_FILE = "accepted.json"
KEYS, CHECKED = {"stage", "old", "new", "why"}, "checked"
# A line of every command and page that shows results of code that was accepted by a reason alone.
UNCHECKED = (
    "unchecked: today's code of {stage} was accepted as equal, but has not made the results again "
    "(`ablation accept {stage} --reproduce`)"
)


def read_accepted(root: str | Path) -> list[dict]:
    """The entries of `root`/accepted.json; an empty list if there is no file.

    Raises ValueError that names the file for any other content, such as a merge conflict.
    """
    file = Path(root) / ACCEPTED_FILE
    try:
        entries = json.loads(file.read_text("utf-8")) if file.is_file() else []
        if isinstance(entries, list) and all(
            set(e) - {CHECKED} == KEYS and isinstance(e.get(CHECKED, {}), dict) for e in entries
        ):
            return entries
        problem = "the content has another form"
    except (ValueError, TypeError, AttributeError) as error:
        problem = str(error)
    raise ValueError(
        f"{file}: {problem}; a list of objects with the keys {', '.join(sorted(KEYS))} was "
        f"expected. Correct it, or restore the committed file: git checkout -- {ACCEPTED_FILE}"
    )


def oldest_equal_code(stage: str, code: str, entries: Sequence[Mapping]) -> str:
    """The oldest code of `stage` that is accepted as equal to `code`; else `code` itself."""
    older = {entry["new"]: entry["old"] for entry in entries if entry["stage"] == stage}
    while code in older:
        code = older.pop(code)  # `pop`, so that a circle of entries ends too
    return code


def is_unchecked(path: str, sha256: str, fingerprint: Mapping, entries: Sequence[Mapping]) -> bool:
    """Whether only a reason, and no reproduction, says that accepted code makes a result.

    path, sha256, fingerprint: those of the manifest of the result.
    """
    stage, code = fingerprint["stage"], fingerprint["code"]
    own = [entry for entry in entries if entry["stage"] == stage]
    if any(entry.get(CHECKED, {}).get(path) == sha256 for entry in own):
        return False
    trusted = [entry["new"] for entry in own if not entry.get(CHECKED)]
    return any(oldest_equal_code(stage, new, entries) == code for new in trusted)


def unchecked_stages(fingerprints: Mapping[str, Mapping], root: Path) -> list[str]:
    """The stages of those results for which accepted.json has no more than a reason.

    fingerprints: {path of a manifest, relative to `root`: its fingerprint}.
    """
    entries = read_accepted(root)
    found = set()
    for path, fingerprint in fingerprints.items() if entries else ():
        file = root / path
        sha256 = sha256_file(file) if file.is_file() else ""
        if is_unchecked(path, sha256, fingerprint, entries):
            found.add(fingerprint["stage"])
    return sorted(found)
