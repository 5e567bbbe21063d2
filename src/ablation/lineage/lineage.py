"""Follows a manifest to everything that it was made from, and verifies each file on the way.

Paths in manifests are relative to the folder in which Snakemake runs; `root` is that folder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from ablation.data.generation.rows import ROWS
from ablation.lineage.ledger import LEDGERS, ledger_attempts
from ablation.provenance.files import sha256_file
from ablation.provenance.manifests import (
    TRAINING_FACTS,
    StaleInput,
    load_manifest,
    outputs_here,
    verify_outputs,
)
from ablation.provenance.run_records import read_run_record, run_record_path
from ablation.vocabulary.generation import SEPARATOR
from ablation.vocabulary.protocols import tasks_of_row

FACTS = (*TRAINING_FACTS, "mask", "eval_leaks", "circumstances", "model_sha")


def lineage(
    wanted: Mapping[str, str], by: str, root: Path, ledger: Path | None = None
) -> dict[str, dict]:
    """{path of a manifest: its record} for `wanted` and all manifests that they were made from.

    `wanted` is {path: sha256 when it was read}; these are inputs of the manifest `by`.

    A record has `sha256`, `stage`, `code`, `config`, `packages`, `fingerprint`, `inputs` (paths of
    manifests), `outputs` ({path: {sha256, bytes, here}}), the FACTS of the manifest, `run` (its run
    record, or None), `attempts` (lines of the ledger), and for sample rows `samples` ({file, rows,
    items}, by task). Every file is read and hashed again, except weights that were removed, whose
    `here` is False.

    Raises StaleInput for a manifest or file that is not as it was made, and for a manifest that was
    made from another version of an input than the present one.
    """
    attempts = ledger_attempts([root / ledger] if ledger else sorted(root.glob(LEDGERS)))
    found: dict[str, dict] = {}
    pending = [(path, sha256, by) for path, sha256 in wanted.items()]
    while pending:
        path, sha256, above = pending.pop()
        if path not in found:
            found[path] = _node(path, root, attempts)
            inputs = load_manifest(root / path)["inputs"].items()
            pending += [(below, recorded, path) for below, recorded in inputs]
        check_input(path, found[path]["sha256"], sha256, above)
    return found


def check_input(path: str, sha256: str, recorded: str, above: str) -> None:
    """Raise StaleInput unless `path` still has the hash that the manifest `above` recorded."""
    if sha256 != recorded:
        raise StaleInput(
            f"{path} is not the one that {above} was made from: it was made again, or replaced. "
            f"Make {above} again, or restore the former {path}"
        )


def _node(path: str, root: Path, attempts: Mapping[str, list[dict]]) -> dict:
    file = root / path
    manifest = load_manifest(file)
    outputs = manifest["outputs"]
    here = outputs_here(file, manifest)
    verify_outputs(file, manifest, here)
    metrics = file.with_name("metrics.manifest.json")  # of the same sample rows; no table reads it
    if "samples.parquet" in outputs and metrics.is_file():
        verify_outputs(metrics, load_manifest(metrics))
    fingerprint, run = manifest["fingerprint"], run_beside(file)
    node = {
        "sha256": sha256_file(file),
        "stage": fingerprint["stage"],
        "code": fingerprint["code"],
        "config": fingerprint["config"],
        "packages": fingerprint["packages"],
        "fingerprint": fingerprint["hash"],
        **{fact: manifest[fact] for fact in FACTS if fact in manifest},
        "inputs": sorted(manifest["inputs"]),
        "outputs": {n: {**entry, "here": n in here} for n, entry in outputs.items()},
        "run": run,
        "attempts": attempts.get((run or {}).get("attempt") or "", []),
    }
    rows = next((name for name in ("samples.parquet", ROWS) if name in outputs), None)
    if rows and "mask" in manifest:  # rows of a bridge have no tasks
        node["samples"] = _samples(file.parent / rows)
    return node


def run_beside(manifest: Path) -> dict | None:
    """The run record of a manifest, or None if there is none that can be read."""
    try:
        return read_run_record(run_record_path(manifest))
    except (OSError, StaleInput):
        return None  # no rule depends on this file


def _samples(file: Path) -> dict:
    import pandas as pd

    texts = file.name == ROWS
    rows = pd.read_parquet(file, columns=["task", "doc_hash", *(["filter"] if texts else [])])
    if texts:  # named as in tables
        rows["task"] = rows.task + SEPARATOR + rows["filter"]
    items = rows.groupby("task").doc_hash.nunique().to_dict()
    return {"file": file.name, "rows": rows.groupby("task").size().to_dict(), "items": items}


def count_of(task: str, counts: Mapping[str, int], families: Collection[str] = ()) -> int:
    """The count of a task in {task: count}, or the sum over the tasks of a macro.

    families: those of the finetuning records, for the macros of trained and of held-out tasks.
    """
    return sum(counts.get(name, 0) for name in tasks_of_row(task, counts, families))
