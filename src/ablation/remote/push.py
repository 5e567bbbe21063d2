"""Sends a study's results to a store, and fetches them on another machine.

Snakemake's metadata of every file (.snakemake/metadata) is sent too; without it, a fresh clone
would run all finished jobs again. Weights are sent if `keep_weights` is true.
"""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from ablation.provenance.files import canonical_json, sha256_file, write_text
from ablation.provenance.manifests import WEIGHT_SUFFIXES, load_manifest, verify_outputs
from ablation.provenance.run_records import git_state, run_record_path
from ablation.remote.store import Store, StoreError

SCHEMA_VERSION = 1
METADATA = Path(".snakemake/metadata")
COMMON_TABLE = Path("results/recovery.csv")  # a copy of the recovery table of the last study


def push(uri: str, study: str, weights: bool, check: bool = False) -> str:
    """Send the files of results/<study> that `uri` lacks, and a snapshot; returns a report.

    weights: whether to send weights too. check: whether to read every object of the study in the
    store, and to send damaged ones again. Raises StaleInput for a file that differs from its
    manifest, and StoreError.
    """
    store = Store(uri)
    files, outdated = results_of(study)
    left_out = {
        path: files[path] for path in weights_of(files) if not weights or _dropped(Path(path))
    }
    sent = {path: entry for path, entry in files.items() if path not in left_out}
    with TemporaryDirectory() as folder:
        metadata = Path(folder) / "metadata.json"
        metadata.write_text(canonical_json(_metadata_of(study, files)))
        notes = _entry(metadata)
        snapshot = {
            "schema_version": SCHEMA_VERSION,
            "study": study,
            **git_state(),
            "files": sent,
            "left_out": left_out,
            "notes": notes,
        }
        sources = {entry["sha256"]: Path(path) for path, entry in sent.items()}
        sources[notes["sha256"]] = metadata
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
    sent_size = _size(sum(sizes.values()))
    lines = [
        f"{study}: {len(sent)} files, of which {len(missing)} were sent ({sent_size}); "
        f"snapshot {name[:12]} in {uri}"
    ]
    lines += [f"  not sent, because its inputs have changed since: {path}" for path in outdated]
    return "\n".join(lines + _weights_report(left_out, "were not sent (keep_weights)"))


def pull(
    uri: str, study: str, weights: bool = True, snapshot: str | None = None, force: bool = False
) -> str:
    """Fetch the missing files of a snapshot (by default the last one); returns a report.

    The hash of every file is verified. weights: whether to fetch weights too. force: whether to
    overwrite files that have another content here; without it, they raise StoreError, as does
    anything damaged in the store.
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
            f"{len(other)} files, such as {other[0]}, have another content here than in {uri}; "
            "nothing was fetched. Move them away, or overwrite them with --force"
        )
    wanted = [*missing, *other]
    store.fetch({Path(p): files[p]["sha256"] for p in wanted}, f"pull {study}")
    # The metadata comes last, because Snakemake makes a file without metadata again.
    metadata = json.loads(store.read(found["notes"]["sha256"], "Snakemake's metadata"))
    for name, text in metadata.items():
        path = METADATA / name
        _refuse_outside(_output(name), uri)
        if not path.is_file() or path.read_text() != text:
            write_text(path, text)
    # Without this folder, Snakemake would convert the metadata from an older format.
    (METADATA.parent / "incomplete").mkdir(exist_ok=True)
    size = _size(sum(files[path]["bytes"] for path in wanted))
    lines = [f"{study}: {len(files)} files, of which {len(wanted)} were missing here ({size})"]
    absent = {path: entry for path, entry in left_out.items() if not Path(path).is_file()}
    return "\n".join(lines + _weights_report(absent, "are not here"))


def results_of(study: str) -> tuple[dict[str, dict], list[str]]:
    """({file: {sha256, bytes}}, manifests that are left out) of results/<study>.

    The files are manifests, their outputs and run records, and other files with metadata of
    Snakemake. Removed weights have the entry of their manifest. A result is left out if its inputs
    have changed since it was made. Raises StaleInput for a damaged file, and StoreError if there
    are no results.
    """
    home = Path("results") / study
    manifests = {path: load_manifest(path) for path in sorted(home.rglob("*manifest.json"))}
    if not manifests:
        raise StoreError(f"{home} holds no results: run the study, or name another one")
    files: dict[str, dict] = {}
    outdated: list[str] = []
    known: set[str] = set()
    for path, manifest in manifests.items():
        outputs = {_joined(path.parent, name): e for name, e in manifest["outputs"].items()}
        inside = {p: entry for p, entry in outputs.items() if p.startswith(f"{home.as_posix()}/")}
        records = [p.as_posix() for p in (path, run_record_path(path)) if p.is_file()]
        known |= {*inside, *records}
        inputs = manifest["inputs"].items()
        if any(Path(p).is_file() and sha256_file(p) != sha256 for p, sha256 in inputs):
            outdated.append(path.as_posix())
            continue
        gone = {n for n in manifest["outputs"] if _dropped(path.parent / n)}
        verify_outputs(path, manifest, set(manifest["outputs"]) - gone if gone else None)
        files |= inside | {record: _entry(Path(record)) for record in records}
    others = (Path(p) for p in _metadata_files(study) if p not in known and Path(p).is_file())
    files |= {path.as_posix(): _entry(path) for path in others if path != COMMON_TABLE}
    table = home / "recovery.csv"
    if (
        table.as_posix() in files
        and COMMON_TABLE.is_file()
        and _entry(COMMON_TABLE) == _entry(table)
    ):
        files[COMMON_TABLE.as_posix()] = _entry(COMMON_TABLE)
    return dict(sorted(files.items())), outdated


def weights_of(files: Iterable[str]) -> list[str]:
    """Those of the files that hold weights."""
    return [path for path in files if Path(path).suffix in WEIGHT_SUFFIXES]


def _dropped(file: Path) -> bool:
    """Whether a file holds weights that were removed."""
    return file.suffix in WEIGHT_SUFFIXES and not file.is_file()


# ---- metadata of Snakemake: a JSON file for each output, named by the output in base64 ----------


def _metadata_files(study: str) -> dict[str, Path]:
    """{output: file with its metadata} for a study and for COMMON_TABLE."""
    found = {}
    for file in (p for p in METADATA.rglob("*") if p.is_file()):
        output = _output(file.relative_to(METADATA).as_posix())
        if output == COMMON_TABLE.as_posix() or output.startswith(f"results/{study}/"):
            found[output] = file
    return found


def _output(name: str) -> str:
    """The output of a file of metadata; a long name is split into folders that begin with `@`."""
    try:
        return urlsafe_b64decode(
            "".join(part.removeprefix("@") for part in name.split("/"))
        ).decode()
    except ValueError:
        return ""


def _metadata_of(study: str, files: Iterable[str]) -> dict[str, str]:
    """{name of a file with metadata: its text} for files and the folders that they are in."""
    covered = {p for file in files for p in (file, *map(str, PurePosixPath(file).parents))}
    found = sorted(file for output, file in _metadata_files(study).items() if output in covered)
    return {file.relative_to(METADATA).as_posix(): file.read_text() for file in found}


# ---- paths and sizes ----------------------------------------------------------------------------


def _refuse_outside(path: str, uri: str) -> None:
    parts = PurePosixPath(path).parts
    if parts[:1] != ("results",) or ".." in parts:
        raise StoreError(f"{uri}: the snapshot names {path!r}, which is outside results/")


def _joined(folder: Path, name: str) -> str:
    return os.path.normpath(folder / name).replace(os.sep, "/")


def _entry(path: Path) -> dict:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def _size(count: float) -> str:
    """A number of bytes with its unit."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} GB"


def _weights_report(absent: Mapping[str, Mapping], why: str) -> list[str]:
    if not absent:
        return []
    size = _size(sum(entry["bytes"] for entry in absent.values()))
    return [
        f"  weights {why}: {len(absent)} files, {size}. Tables and figures do not need them. A job",
        "  that does (stages 4 and 5 after a change) names them: push them with --weights from the",
        "  machine that has them, or train again",
        *(f"    {path}" for path in list(absent)[:3]),
        *(["    ..."] if len(absent) > 3 else []),
    ]
