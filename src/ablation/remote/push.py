"""Sends a study's results to a store or an archive, and fetches them on another machine.

Snakemake's metadata of every file (.snakemake/metadata) is sent too; without it, a fresh clone
would run all finished jobs again. Weights are sent if `keep_weights` is true. An archive is for
publication, so it holds no texts of items or records, which may have a licence of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ablation.data.generation.rows import TEXTS
from ablation.provenance.files import canonical_json, sha256_file, visible_files, write_json
from ablation.provenance.manifests import (
    LEFT_OUT,
    SEAL,
    SIGNATURE,
    WEIGHT_SUFFIXES,
    Manifest,
    load_manifest,
    outputs_here,
    removed_weights,
    verify_outputs,
)
from ablation.provenance.run_records import git_state, run_record_path
from ablation.remote.archive import is_archive, open_store, store_to_write
from ablation.remote.snakemake_metadata import (
    fetch_metadata,
    metadata_file,
    metadata_of,
    write_metadata,
)
from ablation.remote.snapshot import (
    COMMON_TABLE,
    SCHEMA_VERSION,
    read_snapshot,
    refuse_links,
)
from ablation.remote.store import StoreError
from ablation.vocabulary.stages import STAGES


def push(uri: str, study: str, weights: bool, check: bool = False) -> str:
    """Send the files of results/<study> that `uri` lacks, and a snapshot; returns a report.

    weights: whether to send weights too. check: whether to read every object of the study in the
    store, and to send damaged ones again. Raises StaleInput for a file that differs from its
    manifest, and StoreError.
    """
    files, outdated = results_of(study)
    unwanted = set() if weights else set(weights_of(files))
    if is_archive(uri):
        unwanted |= _texts_of(study)
    left_out = {p: e for p, e in files.items() if p in unwanted or not Path(p).is_file()}
    sent = {path: entry for path, entry in files.items() if path not in left_out}
    with TemporaryDirectory() as folder, store_to_write(uri) as store:
        metadata = Path(folder) / "metadata.json"
        metadata.write_text(canonical_json(metadata_of(study, files)), "utf-8")
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
                raise StoreError(f"{uri} lacks {missing[sha256]}, or a part of it: push again")
        name = store.publish(snapshot)
    if is_archive(uri):
        sent_size = f"{_size(sum(sizes.values()))} in {_size(Path(uri).stat().st_size)}"
    else:
        sent_size = _size(sum(sizes.values()))
    lines = [
        f"{study}: {len(sent)} files, of which {len(missing)} were sent ({sent_size}); "
        f"snapshot {name[:12]} in {uri}"
    ]
    lines += [f"  not sent, because its inputs have changed since: {path}" for path in outdated]
    return "\n".join(lines + _left_out_report(left_out, "were not sent"))


def pull(
    uri: str,
    study: str | None,
    weights: bool = True,
    snapshot: str | None = None,
    force: bool = False,
) -> str:
    """Fetch the missing files of a snapshot (by default the last one); returns a report.

    study: by default, the only one that is there. The hash of every file is verified. weights:
    whether to fetch weights too. force: whether to overwrite files that have another content here;
    without it, they raise StoreError, as does anything damaged in the store, and a snapshot with
    files or metadata outside its study.
    """
    with open_store(uri) as store:
        study = study or store.only_study()
        found = read_snapshot(store, study, snapshot)
        files, left_out = found["files"], dict(found["left_out"])
        refuse_links([*files, _list_of_left_out(study)], study)
        metadata = fetch_metadata(store, study, found)
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
    absent = {path: entry for path, entry in left_out.items() if not Path(path).is_file()}
    if texts := sorted(absent.keys() - removed_weights(absent, Path())):
        home = Path("results", study)
        names = [Path(path).relative_to(home).as_posix() for path in texts]
        write_json(_list_of_left_out(study), names)
    # The metadata comes last, because Snakemake makes a file without metadata again.
    write_metadata(metadata)
    size = _size(sum(files[path]["bytes"] for path in wanted))
    lines = [f"{study}: {len(files)} files, of which {len(wanted)} were missing here ({size})"]
    return "\n".join(lines + _left_out_report(absent, "are not here"))


def results_of(study: str) -> tuple[dict[str, dict], list[str]]:
    """({file: {sha256, bytes}}, manifests that are left out) of results/<study>.

    The files are manifests, their outputs and run records, the seal with its signature, and other
    files with metadata of Snakemake. Files that are not here, such as removed weights, have the
    entry of their manifest. A result is left out if its inputs have changed since it was made.
    Raises StaleInput for a damaged file, and StoreError if there are no results.
    """
    home, common = Path("results") / study, Path(COMMON_TABLE)
    manifests = _manifests_of(study)
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
        here = outputs_here(path, manifest)
        verify_outputs(path, manifest, here if here < set(manifest["outputs"]) else None)
        files |= inside | {record: _entry(Path(record)) for record in records}
    files |= {p.as_posix(): _entry(p) for p in (home / SEAL, home / SIGNATURE) if p.is_file()}
    others = (p for p in visible_files(home) if p.as_posix() not in known)
    files |= {p.as_posix(): _entry(p) for p in others if metadata_file(p.as_posix()).is_file()}
    table = home / "recovery.csv"
    if table.as_posix() in files and common.is_file() and _entry(common) == _entry(table):
        files[COMMON_TABLE] = _entry(common)
    return dict(sorted(files.items())), outdated


def weights_of(files: Iterable[str]) -> list[str]:
    """Those of the files that hold weights."""
    return [path for path in files if Path(path).suffix in WEIGHT_SUFFIXES]


def _manifests_of(study: str) -> dict[Path, Manifest]:
    home = Path("results") / study
    manifests = {path: load_manifest(path) for path in sorted(home.rglob("*manifest.json"))}
    if not manifests:
        raise StoreError(f"{home} holds no results: run the study, or name another one")
    return manifests


def _texts_of(study: str) -> set[str]:
    """The files with texts: of items and finetuning records, the data of stage 0, and generated."""
    found: set[str] = set()
    for path, manifest in _manifests_of(study).items():
        stage = STAGES.get(manifest["fingerprint"]["stage"])
        if stage is None or (stage.kind == "data" and stage.script != STAGES["base"].script):
            found |= {_joined(path.parent, name) for name in manifest["outputs"]}
        found |= {_joined(path.parent, name) for name in manifest["outputs"] if name == TEXTS}
    return found


# ---- paths and sizes ----------------------------------------------------------------------------


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


def _list_of_left_out(study: str) -> str:
    return f"results/{study}/{LEFT_OUT}"


def _left_out_report(absent: Mapping[str, Mapping], how: str) -> list[str]:
    weights = weights_of(absent)
    texts = sorted(absent.keys() - removed_weights(absent, Path()))
    why = " (keep_weights)" if how == "were not sent" else ""
    lines = []
    if weights:
        size = _size(sum(absent[path]["bytes"] for path in weights))
        lines += [
            f"  weights {how}{why}: {len(weights)} files, {size}. Tables and figures do not need",
            "  them. A job that does (stages 4 and 5 after a change) names them: push them with",
            "  --weights from the machine that has them, or train again",
            *_shown(weights),
        ]
    if texts:
        lines += [f"  texts of items and records {how}: an archive holds none", *_shown(texts)]
    return lines


def _shown(paths: Sequence[str]) -> list[str]:
    return [*(f"    {path}" for path in paths[:3]), *(["    ..."] if len(paths) > 3 else [])]
