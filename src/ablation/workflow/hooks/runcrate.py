"""The study's records for the crate: manifests, run records, the ledger, hub revisions, git.

docs/crate.md says what the crate holds.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from snakemake_report_plugin_runcrate.hooks import (
    Attempt,
    File,
    Job,
    JobFacts,
    Machine,
    Reference,
    RunFacts,
    StaleResult,
    Workflow,
)

HOME = "results"
LEDGER = "ledger/{study}.jsonl"
COPIED = (  # what the results were made with, and what explains them
    "Snakefile", "rules", "workflow", "src", "packages", "config", "resources", "tools",
    "environment.yml", "environment.post-deploy.sh", "pyproject.toml", "requirements.txt",
    "requirements-torch.txt", "requirements-torch-cpu.txt", "requirements-build.txt",
    "README.md", "LICENSE", "CITATION.cff",
)  # fmt: skip


class StudyRecords:
    """The `Hook` of this repository's workflow, which holds a `Study` in its variable STUDY.

    Everything of the study is imported in the methods: Snakemake also calls the hook for
    workflows that have nothing to do with it.
    """

    def __init__(self) -> None:
        self._attempts: dict[str, list[dict]] = {}

    def run_facts(self, workflow: Workflow) -> RunFacts | None:
        """The study's resolved configuration, git commit and cost; None for another workflow.

        Raises StaleResult if the ledger cannot be read.
        """
        from ablation.config.study import Study

        study = workflow.variables.get("STUDY")
        if not isinstance(study, Study):
            return None
        from ablation.lineage.ledger import ledger_attempts
        from ablation.provenance.manifests import SEAL, SIGNATURE
        from ablation.provenance.run_records import energy_of, git_state, read_run_record

        home = Path(HOME, study.study)
        ledger = Path((workflow.ledger or LEDGER).format(study=study.study))
        with _stale_results():
            self._attempts = ledger_attempts([ledger] if ledger.is_file() else [])
            energy = energy_of(map(read_run_record, sorted(home.rglob("*run.json"))))
        code = git_state()
        seals = [str(home / name) for name in (SEAL, SIGNATURE)]
        return RunFacts(
            name=f"study {study.study}",
            folder=HOME,
            parameters=study.model_dump(mode="json"),
            workflow_files=[*source_files(), *filter(os.path.isfile, seals)],
            commit=code["git_hash"],
            dirty=code["git_dirty"],
            dollars=spent(ledger),
            energy_joules=energy,
        )

    def job_facts(self, job: Job) -> JobFacts:
        """What a job's manifests, run records and lines in the ledger say.

        Raises StaleResult if they belong to another configuration or code, or if a file that is
        here has another size than its manifest says. Weights may be gone.
        """
        from ablation.provenance.manifests import read_manifest
        from ablation.provenance.run_records import read_run_record

        fingerprint = job.params.get("fingerprint")
        files: dict[str, File] = {}
        manifests: list[dict] = []
        records: list[dict] = []
        with _stale_results():
            for path in job.outputs:
                if path.endswith("manifest.json") and fingerprint:
                    manifest = read_manifest(path, json.loads(str(fingerprint))["hash"], only=())
                    manifests.append(manifest)
                    files |= _files(path, manifest)
                elif path.endswith("run.json") and Path(path).is_file():
                    records.append(read_run_record(path))
        attempt = next((r["attempt"] for r in records if r.get("attempt")), None)
        started = [r["started"] for r in records if "started" in r]
        packages: dict[str, str] = {}
        for manifest in manifests:
            packages |= manifest["fingerprint"].get("packages", {})
        return JobFacts(
            files=files,
            started=min(started, default=None),
            ended=_ended(records),
            seconds=_total(records, "seconds"),
            energy_joules=_total(records, "energy_joules"),
            machines=[Machine(r["host"], machine(r)) for r in records if "host" in r],
            attempts=[_attempt(line) for line in self._attempts.get(attempt or "", [])],
            packages=packages,
            references=[*_hub(manifests), *_commits(records)],
            params={},  # the fingerprint, which the configuration and the manifests spell out
        )


@contextmanager
def _stale_results() -> Iterator[None]:
    from ablation.provenance.manifests import StaleInput

    try:
        yield
    except StaleInput as error:
        raise StaleResult(str(error)) from None


def source_files() -> list[str]:
    """The files of COPIED, without what Python has compiled."""
    from ablation.provenance.files import visible_files

    found = []
    for name in filter(os.path.exists, COPIED):
        below = visible_files(name) if os.path.isdir(name) else [Path(name)]
        found += [path.as_posix() for path in below if "__pycache__" not in path.parts]
    return found


def spent(ledger: Path) -> float | None:
    """Dollars of all machines that have ended, by the executor's ledger; None without one."""
    from ablation.data.json_lines import read_json_lines

    if not ledger.is_file():
        return None
    lines = read_json_lines(ledger, appended=True)
    return round(sum(line["dollars"] for line in lines if line.get("what") == "end"), 6)


def machine(record: Mapping) -> str:
    """One line about the machine of a run record."""
    gpus = ", ".join(gpu["name"] for gpu in record.get("gpus") or ())
    driver = f" (driver {record['driver']})" if record.get("driver") else ""
    facts: list[str | None] = [
        gpus and gpus + driver,
        f"{record.get('processor')}, {record.get('processors')} cores",
        record.get("platform"),
        f"Python {record['python']}" if "python" in record else None,
    ]
    return "; ".join(filter(None, facts))


def _files(path: str, manifest: Mapping) -> dict[str, File]:
    """The outputs that a manifest lists; raises StaleInput if one that is here has another size."""
    from ablation.provenance.manifests import StaleInput

    found = {}
    for name, entry in manifest["outputs"].items():
        file = os.path.normpath(os.path.join(os.path.dirname(path), name))
        here = os.path.isfile(file)
        if here and os.path.getsize(file) != entry["bytes"]:
            raise StaleInput(
                f"{file} has changed: {os.path.getsize(file)} bytes now, {entry['bytes']} in its "
                f"manifest. Make it again: snakemake --cores all --force {file}"
            )
        found[file] = File(file, entry["sha256"], entry["bytes"], here)
    return found


def _ended(records: list[dict]) -> str | None:
    """The end of the last of a job's run records, as ISO 8601 in UTC."""
    ends = [
        datetime.datetime.fromisoformat(record["started"]).timestamp() + record["seconds"]
        for record in records
        if "started" in record
    ]
    if not ends:
        return None
    return datetime.datetime.fromtimestamp(max(ends), datetime.UTC).isoformat(timespec="seconds")


def _total(records: list[dict], key: str) -> float | None:
    """The sum of a figure over a job's run records; None if none has it."""
    found = [record[key] for record in records if record.get(key) is not None]
    return round(sum(found), 6) if found else None


def _attempt(line: Mapping) -> Attempt:
    """A line of the ledger."""
    return Attempt(
        name=line["attempt"],
        error=None if line["why"] == "done" else line["why"],
        seconds=line.get("seconds"),
        dollars=line.get("dollars"),
        ended=float(line["time"]) if "time" in line else None,
    )


def _hub(manifests: list[dict]) -> Iterator[Reference]:
    """Models and data sets of the hub, at their commits, that manifests name."""
    from ablation.data import hub

    for manifest in manifests:
        pins = dict(manifest["fingerprint"]["config"].get("pins") or {})
        names = {f"datasets/{name}": commit for name, commit in pins.items() if commit}
        if commit := hub.model_commit(manifest):
            names[manifest["model"]] = commit
        for name, commit in sorted(names.items()):
            yield Reference(name, commit, f"https://huggingface.co/{name}/tree/{commit}")


def _commits(records: list[dict]) -> Iterator[Reference]:
    """The git commit that each run record says was checked out."""
    for record in records:
        if commit := record.get("git_hash"):
            changed = ", with uncommitted changes" if record.get("git_dirty") else ""
            yield Reference(f"git commit {commit}{changed}", commit)
