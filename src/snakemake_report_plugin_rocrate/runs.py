"""Jobs as plain data, and what their records say: files, times, machine, money."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ablation.lineage import read_run as record_of
from ablation.provenance import (
    StaleInput,
    read_json_lines,
    read_manifest,
    sha256_file,
    visible_files,
)


@dataclass(frozen=True)
class Job:
    """What Snakemake knows of a job; paths are relative to the folder in which it runs."""

    rule: str
    description: str
    snakefile: str  # in which the rule stands
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    script: str | None = None
    wildcards: Mapping[str, str] = field(default_factory=dict)
    stamp: str | None = None  # as in `params:`, JSON
    times: tuple[float, float] | None = None  # by Snakemake: start and end, seconds since 1970

    @property
    def name(self) -> str:
        return " ".join([self.rule, *(f"{k}={v}" for k, v in sorted(self.wildcards.items()))])


@dataclass(frozen=True)
class File:
    """A file as it was when its manifest was written. `here`: it still stands in its place."""

    path: str
    sha256: str
    bytes: int
    here: bool = True


@dataclass
class Run:
    """A job that has ended well: its files and its records."""

    job: Job
    results: list[File] = field(default_factory=list)
    sources: list[File] = field(default_factory=list)  # below no results folder, named by manifests
    manifests: list[dict] = field(default_factory=list)
    records: list[dict] = field(default_factory=list)  # its run.json, one a mask
    attempts: list[dict] = field(default_factory=list)  # its lines in the ledger, the good one last

    @property
    def started(self) -> str | None:
        begins = [record["started"] for record in self.records if "started" in record]
        if begins:
            return min(begins)
        return iso(self.job.times[0]) if self.job.times else None

    @property
    def ended(self) -> str | None:
        ends = [
            datetime.datetime.fromisoformat(record["started"]).timestamp() + record["seconds"]
            for record in self.records
            if "started" in record
        ]
        if ends:
            return iso(max(ends))
        return iso(self.job.times[1]) if self.job.times else None

    def total(self, key: str) -> float | None:
        """The sum of a figure over the job's run records; None where none has it."""
        found = [record[key] for record in self.records if record.get(key) is not None]
        return round(sum(found), 6) if found else None


def iso(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="seconds")


def read_run(job: Job, home: str, ledger: Mapping[str, list[dict]]) -> Run:
    """What became of `job`, whose results stand below the folder `home`.

    Hashes are those of the manifests; of a file that is here the size is compared, and one that no
    manifest names is hashed. Raises StaleInput for results of another configuration or code, and
    for a missing or changed file; only what lies in a folder (weights) may be gone.
    """
    run, known = Run(job), {}
    for path in job.outputs:
        if path.endswith("manifest.json") and job.stamp:
            manifest = read_manifest(path, json.loads(job.stamp)["hash"], only=())
            run.manifests.append(manifest)
            for name, entry in manifest["outputs"].items():
                file = os.path.normpath(os.path.join(os.path.dirname(path), name))
                known[file] = File(file, entry["sha256"], entry["bytes"], _is_here(file, entry))
        elif path.endswith("run.json") and Path(path).is_file():
            run.records.append(record_of(path))
    run.sources = [file for path, file in known.items() if not path.startswith(f"{home}/")]
    for path in job.outputs:
        below = {p for p in known if p.startswith(f"{path}/")}
        if Path(path).is_dir():
            below |= {file.as_posix() for file in visible_files(path)}
        run.results += [_file(name, known) for name in sorted(below or {path})]
    attempt = next((r["attempt"] for r in run.records if r.get("attempt")), None)
    run.attempts = ledger.get(attempt, [])
    return run


def _is_here(path: str, entry: Mapping) -> bool:
    if not os.path.isfile(path):
        return False
    size = os.path.getsize(path)
    if size != entry["bytes"]:
        raise StaleInput(
            f"{path} has changed: {size} bytes now, {entry['bytes']} in its manifest. "
            f"Make it again: snakemake --cores all --force {path}"
        )
    return True


def _file(path: str, known: Mapping[str, File]) -> File:
    if path not in known:
        if not os.path.isfile(path):
            raise StaleInput(f"{path} is missing. Make it: snakemake --cores all {path}")
        return File(path, sha256_file(path), os.path.getsize(path))
    return known[path]


def spent(ledger: Path) -> float | None:
    """Dollars of all machines that have ended, by the executor's ledger; None without one."""
    if not ledger.is_file():
        return None
    lines = read_json_lines(ledger, appended=True)
    return round(sum(line["dollars"] for line in lines if line.get("what") == "end"), 6)


def machine(record: Mapping) -> str:
    """One line on the machine of a run record."""
    gpus = ", ".join(gpu["name"] for gpu in record.get("gpus") or ())
    driver = f" (driver {record['driver']})" if record.get("driver") else ""
    facts = [gpus and gpus + driver, f"{record.get('processor')}, {record.get('processors')} cores"]
    facts += [record.get("platform"), f"Python {record['python']}" if "python" in record else None]
    return "; ".join(filter(None, facts))
