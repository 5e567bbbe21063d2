"""Write the report pages of costs and environment: times, dollars, machines, versions, hashes."""

import json
from pathlib import Path

from ablation.lineage.ledger import LEDGERS, ledger_attempts
from ablation.provenance.energy import region
from ablation.provenance.files import write_text
from ablation.provenance.job import Job, run
from ablation.provenance.run_records import read_run_record
from ablation.report import run_pages


def main(job: Job) -> None:
    manifests = {path: json.loads(Path(path).read_text("utf-8")) for path in job.input.manifests}
    attempts = ledger_attempts(sorted(Path().glob(LEDGERS)))
    jobs = []
    for manifest, file in zip(manifests.values(), job.input.runs, strict=True):
        record = read_run_record(file)
        facts = {"stage": manifest["fingerprint"]["stage"], "run": record}
        facts |= {name: manifest.get(name) for name in run_pages.NAMED}
        jobs.append(facts | {"attempts": attempts.get(record.get("attempt"), [])})
    named = job.params.carbon_region
    write_text(job.output.costs, run_pages.costs(jobs, region(named) if named else None))
    happened = [facts["run"] for facts in jobs]
    write_text(job.output.environment, run_pages.environment(manifests, happened))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
