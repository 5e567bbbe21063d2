"""Write the report's pages of what happened: times, money, machines, versions, hashes."""

import json
from pathlib import Path

from ablation import provenance, runs
from ablation.lineage import LEDGERS, ledger_attempts, read_run
from ablation.progress import logged


def main(smk):
    manifests = {path: json.loads(Path(path).read_text()) for path in smk.input.manifests}
    attempts = ledger_attempts(sorted(Path().glob(LEDGERS)))
    jobs = []
    for manifest, file in zip(manifests.values(), smk.input.runs, strict=True):
        run = read_run(file)
        job = {"stage": manifest["stamp"]["stage"], "run": run}
        job |= {name: manifest.get(name) for name in runs.NAMED}
        jobs.append(job | {"attempts": attempts.get(run.get("attempt"), [])})
    provenance.write_text(smk.output.costs, runs.costs(jobs))
    happened = [job["run"] for job in jobs]
    provenance.write_text(smk.output.environment, runs.environment(manifests, happened))


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
