"""What a study took and on what it stands: pages of its run records, ledger and manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ablation.sheets import Marked, Section, html_page

NAMED = ("recipe", "seed", "mask")
NOTES = [
    "Seconds are of the work itself, without waiting, imports and transfers. Joules are of the "
    "GPUs, where their driver says them. Dollars stand in the ledger of rented machines; a job is "
    "charged for its failed attempts too. Nothing is put in for what was not measured.",
]


def costs(jobs: Sequence[Mapping], ledger: Iterable[Mapping]) -> str:
    """Time, energy and money, per stage and per job.

    `jobs`: {stage, recipe, seed, mask, and the `run` record: seconds, host, gpus, energy_joules,
    attempt, tokens_per_second, resumes}, all but stage and run optional. `ledger`: its lines;
    those with `what: attempt` name `attempt`, `job`, and `dollars` (or `dph` and `seconds`).
    """
    prices = dollars_of(ledger)
    stages: dict[str, list[Mapping]] = {}
    for job in jobs:
        stages.setdefault(job["stage"], []).append(job)
    rows = [_sum(stage, own, prices) for stage, own in stages.items()]
    rows.append(_sum("all", jobs, prices))
    parts = [
        Section("Each stage", rows),
        Section("Each job", [_job(job, prices) for job in jobs]),
    ]
    return html_page("What the study took", NOTES, parts)


def dollars_of(ledger: Iterable[Mapping]) -> dict[str, float]:
    """{attempt: dollars of all attempts at its job}"""
    attempts = [line for line in ledger if line.get("what") == "attempt"]
    spent: dict[str, float] = {}
    for line in attempts:
        charged = line.get("dollars", line.get("dph", 0) * line.get("seconds", 0) / 3600)
        spent[line["job"]] = spent.get(line["job"], 0.0) + charged
    return {line["attempt"]: spent[line["job"]] for line in attempts}


def _sum(stage: str, jobs: Sequence[Mapping], prices: Mapping[str, float]) -> dict:
    runs = [job["run"] for job in jobs]
    joules = [run["energy_joules"] for run in runs if run.get("energy_joules") is not None]
    attempts = {run.get("attempt") for run in runs} & set(prices)  # one job, several records
    return {
        "stage": stage,
        "records": str(len(runs)),
        "minutes": f"{sum(run['seconds'] for run in runs) / 60:.2f}",
        "joules": f"{sum(joules):,.0f}" if joules else "-",
        "dollars": f"{sum(prices[a] for a in attempts):.2f}" if attempts else "-",
        "machines": ", ".join(sorted({_machine(run) for run in runs})),
    }


def _job(job: Mapping, prices: Mapping[str, float]) -> dict:
    run = job["run"]
    speed, joules, price = (
        run.get("tokens_per_second"),
        run.get("energy_joules"),
        prices.get(run.get("attempt")),
    )
    return {
        "stage": job["stage"],
        **{name: str(job.get(name) or "") for name in NAMED},
        "started (UTC)": run["started"].replace("T", " ").removesuffix("+00:00"),
        "seconds": f"{run['seconds']:.2f}",
        "tokens/s": "-" if speed is None else f"{speed:,.0f}",
        "resumed": str(len(run.get("resumes") or ())),
        "joules": "-" if joules is None else f"{joules:,.0f}",
        "dollars": "-" if price is None else f"{price:.2f}",
        "machine": _machine(run),
    }


def _machine(run: Mapping) -> str:
    gpus = [gpu["name"] if isinstance(gpu, Mapping) else str(gpu) for gpu in run.get("gpus") or ()]
    processor = f"{run.get('processor')}, {run.get('processors')} processors"
    return ", ".join(gpus) or processor


def environment(manifests: Mapping[str, Mapping], runs: Iterable[Mapping]) -> str:
    """Commit, systems and packages; and what each result was made of, as hashes.

    `manifests`: {path: manifest.json}, `runs`: run records.
    """
    facts: dict[str, set[str]] = {}
    for run in runs:
        commit = run.get("git_hash")
        known = {
            "commit": commit and commit + " (with changes)" * bool(run.get("git_dirty")),
            "system": run.get("platform"),
            "Python": run.get("python"),
            "processor": f"{run.get('processor')}, {run.get('processors')} processors",
            "GPU driver": run.get("driver"),
            "GPU": ", ".join(_machine(run).split(", ")) if run.get("gpus") else None,
        }
        for name, value in known.items():
            if value:
                facts.setdefault(name, set()).add(str(value))
    versions: dict[str, set[str]] = {}
    for manifest in manifests.values():
        for package, version in manifest["stamp"]["packages"].items():
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
        "A manifest's stamp stands for all that can change its result: code, configuration, "
        "packages and the stamps upstream. `ablation trace` follows a cell of a table to them."
    ]
    return html_page("On what the study stands", notes, parts)


def _one(found: set[str]) -> str:
    text = ", ".join(sorted(found))
    return text if len(found) == 1 else Marked(text, "bad")


def _hashes(path: str, manifest: Mapping) -> dict:
    stamp, outputs = manifest["stamp"], manifest["outputs"]
    return {
        "manifest": Path(path).as_posix(),
        "stage": stamp["stage"],
        "files": str(len(outputs)),
        "bytes": f"{sum(entry['bytes'] for entry in outputs.values()):,}",
        "stamp": stamp["hash"][:16],
        "code": stamp["code"][:16],
        "manifest sha256": manifest["sha256"],
    }
