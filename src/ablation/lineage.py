"""What stands behind a manifest, all the way down, each step verified: runs, samples, cost.

Paths in manifests are relative to the folder in which Snakemake runs; `root` is that folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ablation.machine import run_of
from ablation.names import MACROS, macros
from ablation.provenance import (
    StaleInput,
    command_for,
    read_json_lines,
    sealed_manifest,
    sha256_file,
    verify_outputs,
)

LEDGERS = "ledger/*.jsonl"  # of the `vast` executor, one a study
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
FACTS = ("recipe", "seed", "mask", "train_leaks", "eval_leaks", "circumstances", "model_sha")


def lineage(
    wanted: Mapping[str, str], by: str, root: Path, ledger: Path | None = None
) -> dict[str, dict]:
    """{path of a manifest: what it says} of `wanted` and all that they were made from.

    `wanted` are inputs of the manifest `by`: {path: sha256 as it was read}.

    Each has `sha256`, `stage`, `code`, `config`, `packages`, `stamp`, `inputs` (paths of the
    manifests it stands on), `outputs` ({path: sha256, bytes, here}), those FACTS that it knows,
    `run` (its run record, None where it is gone), `attempts` (lines of the ledger) and `samples`
    ({file, rows, items by task}) where it has sample rows. Everything is read and hashed again.

    Raises StaleInput, naming it, for a manifest or file that is not as it was made, and for a
    manifest that was made from another one than stands there now. Weights may be gone (`here`).
    """
    attempts = ledger_attempts([root / ledger] if ledger else sorted(root.glob(LEDGERS)))
    found: dict[str, dict] = {}
    pending = [(path, sha256, by) for path, sha256 in wanted.items()]
    while pending:
        path, sha256, above = pending.pop()
        if path not in found:
            found[path] = _node(path, root, attempts)
            inputs = sealed_manifest(root / path)["inputs"].items()
            pending += [(below, recorded, path) for below, recorded in inputs]
        check_input(path, found[path]["sha256"], sha256, above)
    return found


def check_input(path: str, sha256: str, recorded: str, above: str) -> None:
    """Raise StaleInput unless `path` is the one that the manifest `above` was made from."""
    if sha256 != recorded:
        raise StaleInput(
            f"{path} is not the one that {above} was made from: it was made again, or replaced. "
            f"Make {above} again, or restore the former {path}"
        )


def _node(path: str, root: Path, attempts: Mapping[str, list[dict]]) -> dict:
    file = root / path
    manifest = sealed_manifest(file)
    outputs = manifest["outputs"]
    here = {n for n in outputs if Path(n).suffix not in WEIGHTS or (file.parent / n).is_file()}
    verify_outputs(file, manifest, None if len(here) == len(outputs) else here)
    stamp, run = manifest["stamp"], run_beside(file)
    node = {
        "sha256": sha256_file(file),
        "stage": stamp["stage"],
        "code": stamp["code"],
        "config": stamp["config"],
        "packages": stamp["packages"],
        "stamp": stamp["hash"],
        **{fact: manifest[fact] for fact in FACTS if fact in manifest},
        "inputs": sorted(manifest["inputs"]),
        "outputs": {n: {**entry, "here": n in here} for n, entry in outputs.items()},
        "run": run,
        "attempts": attempts.get((run or {}).get("attempt"), []),
    }
    if "samples.parquet" in outputs and "mask" in manifest:  # a bridge's rows have no tasks
        node["samples"] = _samples(file.parent / "samples.parquet")
    return node


def run_beside(manifest: Path) -> dict | None:
    """The run record of a manifest, None where there is none to be read."""
    try:
        return read_run(run_of(manifest))
    except (OSError, StaleInput):
        return None  # nobody's input: its loss damages no number


def read_run(file: str | Path) -> dict:
    """A run record. Raises StaleInput for what is none, OSError where there is no file."""
    with suppress(ValueError):
        record = json.loads(Path(file).read_text("utf-8"))
        if isinstance(record, dict):
            return record
    raise StaleInput(
        f"{file} is no run record: cut off or edited. Restore it, or make its job again: "
        f"{command_for(file)}"
    )


def _samples(file: Path) -> dict:
    import pandas as pd

    rows = pd.read_parquet(file, columns=["task", "doc_hash"])
    items = rows.groupby("task").doc_hash.nunique().to_dict()
    return {"file": file.name, "rows": rows.groupby("task").size().to_dict(), "items": items}


def of_task(counts: Mapping[str, int], task: str) -> int:
    """Of {task: number}, that of one task, or the sum over the tasks of a macro."""
    names = macros(counts).get(task, []) if task in MACROS else [task]
    return sum(counts.get(name, 0) for name in names)


def ledger_attempts(ledgers: Iterable[Path]) -> dict[str, list[dict]]:
    """{attempt that ended well: all attempts of its job since the last that did}.

    Ledgers are the executor's: a line an event, those with `what: attempt` name `attempt`,
    `job`, `why` (`done`), `seconds` and `dollars`. Raises StaleInput for any other.
    """
    try:
        return _attempts(ledgers)
    except (ValueError, FileNotFoundError) as fault:
        raise StaleInput(
            f"the ledger cannot be read: {fault}. Mend or restore it, or name another by --ledger"
        ) from None


def _whole(line: Mapping) -> None:
    lacking = {"attempt", "job"} - set(line) if line.get("what") == "attempt" else set()
    if lacking:
        raise ValueError(f"an attempt without {', '.join(sorted(lacking))}")


def _attempts(ledgers: Iterable[Path]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    tried: dict[str, list[dict]] = {}
    for line in (x for file in ledgers for x in read_json_lines(file, _whole, appended=True)):
        if line.get("what") != "attempt":
            continue
        tried.setdefault(line["job"], []).append(line)
        if line.get("why") == "done":
            found[line["attempt"]] = tried.pop(line["job"])
    return found


def totals(nodes: Iterable[Mapping]) -> dict:
    """Machines, seconds, joules and dollars of all these; an attempt counts once."""
    nodes = list(nodes)
    runs = [node["run"] for node in nodes if node["run"]]
    attempts = {line["attempt"]: line for node in nodes for line in node["attempts"]}
    joules = [run["energy_joules"] for run in runs if "energy_joules" in run]
    found = {
        "machines": sorted({machine(run) for run in runs}),
        "runs": len(runs),
        "seconds": round(sum(run.get("seconds", 0) for run in runs), 3),
        "energy_joules": round(sum(joules), 3) if joules else None,
        "attempts": len(attempts),
        "failed_attempts": sum(line.get("why") != "done" for line in attempts.values()),
        "dollars": round(sum(line.get("dollars", 0) for line in attempts.values()), 6),
    }
    return found if attempts else found | {"dollars": None}


def machine(run: Mapping) -> str:
    gpus = ", ".join(gpu["name"] for gpu in run.get("gpus", ()))
    return f"{run.get('host', '?')} ({gpus or run.get('processor', '?')})"
