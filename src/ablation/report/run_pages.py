"""The pages of a study's run records: time, energy, money, machines, versions and hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ablation.provenance.energy import Region, co2_text, kwh_text
from ablation.provenance.run_records import describe_machine, sum_runs
from ablation.report.html_tables import Marked, Section, html_page

NAMED = ("recipe", "seed", "mask")  # facts of a manifest that name a job
NOTES = [
    "Seconds are of the work itself, without waiting, imports and transfers. Joules are of the "
    "GPUs, where their driver says them: those of one record are of all that ran on its GPUs "
    "meanwhile, and sums count a shared GPU once. Dollars stand in the ledger of rented machines; "
    "a job is charged for its failed attempts too. Nothing is put in for what was not measured.",
]


def costs(jobs: Sequence[Mapping], region: Region | None = None) -> str:
    """The page of time, energy and money, for each stage and each run record.

    A job has `stage`, `recipe`, `seed`, `mask` (these three may be None), `run` (its run record)
    and `attempts` (its lines of the ledger). region: where the electricity came from; without it
    the page has no CO2.
    """
    stages: dict[str, list[Mapping]] = {}
    for job in jobs:
        stages.setdefault(job["stage"], []).append(job)
    named = sorted(stages.items())
    rows = [{"stage": stage} | _sums(of_stage, region) for stage, of_stage in named]
    rows.append({"stage": "all"} | _sums(jobs, region))
    records = [_record(job, region) for job in jobs]
    parts = [Section("Each stage", rows), Section("Each record", records)]
    notes = [*NOTES, region.note] if region else NOTES
    return html_page("What the study took", notes, parts)


def _sums(jobs: Sequence[Mapping], region: Region | None) -> dict:
    sums = sum_runs(jobs)
    joules = sums["energy_joules"]
    return {
        "records": str(sums["runs"]),
        "seconds": f"{sums['seconds']:,.1f}",
        "joules": _known(joules, ",.0f"),
        "energy": "-" if joules is None else kwh_text(joules),
        **({"CO2": "-" if joules is None else co2_text(joules, region)} if region else {}),
        "attempts": str(sums["attempts"]) if sums["attempts"] else "-",
        "failed": str(sums["failed_attempts"]) if sums["attempts"] else "-",
        "dollars": _known(sums["dollars"], ".2f"),
        "machines": "\n".join(sums["machines"]),
    }


def _record(job: Mapping, region: Region | None) -> dict:
    run = job["run"]
    return {
        "stage": job["stage"],
        **{name: str(job[name] if job[name] is not None else "") for name in NAMED},
        "started (UTC)": run["started"].replace("T", " ").removesuffix("+00:00"),
        **{name: text for name, text in _sums([job], region).items() if name != "records"},
        "tokens/s": _known(run.get("tokens_per_second"), ",.0f"),
        "resumed": str(len(run.get("resumes") or ())),
    }


def _known(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def environment(manifests: Mapping[str, Mapping], runs: Iterable[Mapping]) -> str:
    """The page of commit, systems and packages, with the hashes of each result.

    manifests: {path: content of manifest.json}. runs: run records.
    """
    facts: dict[str, set[str]] = {}
    for run in runs:
        commit = run.get("git_hash")
        known = {
            "commit": commit and commit + " (with changes)" * bool(run.get("git_dirty")),
            "system": run.get("platform"),
            "Python": run.get("python"),
            "machine": describe_machine(run),
            "processors": run.get("processors"),
            "GPU driver": run.get("driver"),
        }
        for name, value in known.items():
            if value:
                facts.setdefault(name, set()).add(str(value))
    versions: dict[str, set[str]] = {}
    for manifest in manifests.values():
        for package, version in manifest["fingerprint"]["packages"].items():
            versions.setdefault(package, set()).add(version)
    made = [
        {"fact": name, "value": "\n".join(sorted(values))} for name, values in sorted(facts.items())
    ]
    packages = [
        {"package": name, "version": _one(found)} for name, found in sorted(versions.items())
    ]
    parts = [
        Section("Where it was made", made),
        Section("Packages that shape results", packages),
        Section("Manifests", [_hashes(path, m) for path, m in sorted(manifests.items())]),
    ]
    notes = [
        "A manifest's fingerprint stands for all that can change its result: code, "
        "configuration, packages and the fingerprints upstream. `ablation trace` follows a cell "
        "of a table to them."
    ]
    return html_page("On what the study stands", notes, parts)


def _one(found: set[str]) -> str:
    text = ", ".join(sorted(found))
    return text if len(found) == 1 else Marked(text, "bad")


def _hashes(path: str, manifest: Mapping) -> dict:
    fingerprint, outputs = manifest["fingerprint"], manifest["outputs"]
    return {
        "manifest": Path(path).as_posix(),
        "stage": fingerprint["stage"],
        "files": str(len(outputs)),
        "bytes": f"{sum(entry['bytes'] for entry in outputs.values()):,}",
        "fingerprint": fingerprint["hash"][:16],
        "code": fingerprint["code"][:16],
        "manifest sha256": manifest["sha256"],
    }
