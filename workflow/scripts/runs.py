"""Write the report's pages of what happened: times, money, machines, versions, hashes."""

import json
from pathlib import Path

from ablation import provenance, runs
from ablation.progress import logged

LEDGER = Path(".snakemake/vast/ledger.jsonl")


def main(smk):
    manifests = {path: json.loads(Path(path).read_text()) for path in smk.input.manifests}
    jobs = []
    for manifest in manifests.values():
        facts = {name: manifest.get(name) for name in runs.NAMED}
        jobs.append({"stage": manifest["stamp"]["stage"], **facts})
    ledger = provenance.read_json_lines(LEDGER) if LEDGER.is_file() else []
    for job, run in zip(jobs, smk.input.runs, strict=True):
        job["run"] = json.loads(Path(run).read_text())
    provenance.write_text(smk.output.costs, runs.costs(jobs, ledger))
    happened = [job["run"] for job in jobs]
    provenance.write_text(smk.output.environment, runs.environment(manifests, happened))


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
