"""A study's results to a store and back, so that Snakemake takes them there as made.

With every file travels what Snakemake noted when it was made (.snakemake/metadata): without these
notes a fresh clone would make everything again. Weights travel when `keep_weights` says so.
"""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from ablation.lineage import WEIGHTS
from ablation.machine import git_state, run_of
from ablation.provenance import (
    canonical_json,
    sealed_manifest,
    sha256_file,
    verify_outputs,
    write_text,
)
from ablation.store import Store, StoreError

SCHEMA_VERSION = 1
NOTES = Path(".snakemake/metadata")
NAMED = Path("results/recovery.csv")  # the last study's table, under the name that users type


def push(uri: str, study: str, weights: bool, check: bool = False) -> str:
    """Send what `uri` lacks of results/<study>, and a snapshot that names everything; says what.

    check: also read back every object of this study that is there already, and send damaged ones
        again.
    Raises StaleInput for a file that is not as its manifest says, StoreError for the store's own.
    """
    store = Store(uri)
    files, outdated = results_of(study)
    stay = {path: files[path] for path in weights_of(files) if not weights or _dropped(Path(path))}
    going = {path: entry for path, entry in files.items() if path not in stay}
    with TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.json"
        notes.write_text(canonical_json(_notes_about(study, files)))
        snapshot = {
            "schema_version": SCHEMA_VERSION,
            "study": study,
            **git_state(),
            "files": going,
            "left_out": stay,
            "notes": _entry(notes),
        }
        sources = {entry["sha256"]: Path(path) for path, entry in going.items()}
        sources[snapshot["notes"]["sha256"]] = notes
        there = store.sizes()
        missing = {s: p for s, p in sources.items() if there.get(s) != p.stat().st_size}
        if check:
            missing |= {s: p for s, p in sources.items() if s in there and not store.holds(s)}
        sizes = {sha256: path.stat().st_size for sha256, path in missing.items()}
        store.send(missing, f"push {study}")
        there = store.sizes()
        for sha256, size in sizes.items():
            if there.get(sha256) != size:
                raise StoreError(f"{uri} does not hold {missing[sha256]} whole: push again")
        name = store.publish(snapshot)
    sent = _size(sum(sizes.values()))
    lines = [
        f"{study}: {len(going)} files, of which {len(missing)} were sent ({sent}); "
        f"snapshot {name[:12]} in {uri}"
    ]
    lines += [f"  not sent, made from other inputs than today's: {path}" for path in outdated]
    return "\n".join(lines + _told_of_weights(stay, "did not travel (keep_weights)"))


def pull(
    uri: str, study: str, weights: bool = True, snapshot: str | None = None, force: bool = False
) -> str:
    """Bring what is missing here of a snapshot (the last one), every byte verified; says what.

    Raises StoreError, naming it, for what is damaged in the store, and for a file that stands here
    with another content, unless `force`.
    """
    store = Store(uri)
    found = store.snapshot(study, snapshot)
    if found.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(f"{uri}: snapshot of another version of this program")
    files, left_out = found["files"], dict(found["left_out"])
    for path in files:
        _refuse_outside(path, uri)
    if not weights:
        left_out |= {p: files[p] for p in weights_of(files)}
        files = {p: entry for p, entry in files.items() if p not in left_out}
    missing, other = [], []
    for path, entry in files.items():
        if not Path(path).is_file():
            missing.append(path)
        elif _entry(Path(path)) != entry:
            other.append(path)
    if other and not force:
        raise StoreError(
            f"{len(other)} files stand here with another content than in {uri}, {other[0]} among "
            "them: move them away, or overwrite them with --force"
        )
    wanted = [*missing, *other]
    store.fetch({Path(p): files[p]["sha256"] for p in wanted}, f"pull {study}")
    notes = json.loads(store.read(found["notes"]["sha256"], "what Snakemake noted"))
    for name, note in notes.items():  # last: a file without its note is made again, not believed
        path = NOTES / name
        _refuse_outside(_output(name), uri)
        if not path.is_file() or path.read_text() != note:
            write_text(path, note)
    (NOTES.parent / "incomplete").mkdir(exist_ok=True)  # or Snakemake migrates from an older form
    brought = _size(sum(files[path]["bytes"] for path in wanted))
    lines = [f"{study}: {len(files)} files, of which {len(wanted)} were missing here ({brought})"]
    absent = {path: entry for path, entry in left_out.items() if not Path(path).is_file()}
    return "\n".join(lines + _told_of_weights(absent, "are not here"))


def results_of(study: str) -> tuple[dict[str, dict], list[str]]:
    """({file: {sha256, bytes}}, manifests left out) of all that is on record in results/<study>.

    On record are manifests, their outputs and run records, and what else Snakemake noted. Weights
    that were removed are taken from their manifest. Left out are results that stand on other
    inputs than today's. Raises StaleInput for anything damaged, StoreError where there is nothing.
    """
    home = Path("results") / study
    manifests = {path: sealed_manifest(path) for path in sorted(home.rglob("*manifest.json"))}
    if not manifests:
        raise StoreError(f"{home} holds no results: run the study, or name another one")
    files: dict[str, dict] = {}
    outdated: list[str] = []
    known: set[str] = set()
    for path, manifest in manifests.items():
        outputs = {_joined(path.parent, name): e for name, e in manifest["outputs"].items()}
        mine = {p: entry for p, entry in outputs.items() if p.startswith(f"{home.as_posix()}/")}
        records = [p.as_posix() for p in (path, run_of(path)) if p.is_file()]
        known |= {*mine, *records}
        inputs = manifest["inputs"].items()
        if any(Path(p).is_file() and sha256_file(p) != sha256 for p, sha256 in inputs):
            outdated.append(path.as_posix())
            continue
        gone = {n for n in manifest["outputs"] if _dropped(path.parent / n)}
        verify_outputs(path, manifest, set(manifest["outputs"]) - gone if gone else None)
        files |= mine | {record: _entry(Path(record)) for record in records}
    noted = (Path(p) for p in _notes(study) if p not in known and Path(p).is_file())
    files |= {path.as_posix(): _entry(path) for path in noted if path != NAMED}
    table = home / "recovery.csv"
    if table.as_posix() in files and NAMED.is_file() and _entry(NAMED) == _entry(table):
        files[NAMED.as_posix()] = _entry(NAMED)
    return dict(sorted(files.items())), outdated


def weights_of(files: Iterable[str]) -> list[str]:
    return [path for path in files if Path(path).suffix in WEIGHTS]


def _dropped(file: Path) -> bool:
    return file.suffix in WEIGHTS and not file.is_file()


# ---- what Snakemake noted: one JSON file an output, named by the output in base64 ---------------


def _notes(study: str) -> dict[str, Path]:
    """{output: the note about it} of the study and of the table under its common name."""
    found = {}
    for note in (p for p in NOTES.rglob("*") if p.is_file()):
        output = _output(note.relative_to(NOTES).as_posix())
        if output == NAMED.as_posix() or output.startswith(f"results/{study}/"):
            found[output] = note
    return found


def _output(note: str) -> str:
    """The output that a note is about; long names are split into folders that begin with `@`."""
    try:
        return urlsafe_b64decode(
            "".join(part.removeprefix("@") for part in note.split("/"))
        ).decode()
    except ValueError:
        return ""


def _notes_about(study: str, files: Iterable[str]) -> dict[str, str]:
    """{name of the note: its text} for files, and for the folders that they stand in."""
    covered = {p for file in files for p in (file, *map(str, PurePosixPath(file).parents))}
    notes = {note: path for path, note in _notes(study).items() if path in covered}
    return {n.relative_to(NOTES).as_posix(): n.read_text() for n in sorted(notes)}


# ---- small things -------------------------------------------------------------------------------


def _refuse_outside(path: str, uri: str) -> None:
    parts = PurePosixPath(path).parts
    if parts[:1] != ("results",) or ".." in parts:
        raise StoreError(f"{uri}: the snapshot names {path!r}, which is no place for a result")


def _joined(folder: Path, name: str) -> str:
    return os.path.normpath(folder / name).replace(os.sep, "/")


def _entry(path: Path) -> dict:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000


def _told_of_weights(absent: Mapping[str, Mapping], why: str) -> list[str]:
    if not absent:
        return []
    size = _size(sum(entry["bytes"] for entry in absent.values()))
    return [
        f"  weights {why}: {len(absent)} files, {size}. Tables, figures and all that stands needs "
        "none of them; a job that",
        "  does (stages 4 and 5 after a change) will say which: push from where they are with "
        "--weights, or train again",
        *(f"    {path}" for path in list(absent)[:3]),
        *(["    ..."] if len(absent) > 3 else []),
    ]
