"""Write the tables of the published bridge runs: which test a bridge, and the noise of repeats."""

import json
from pathlib import Path

from ablation.bridge.analysis.published import repeats_table, runs_table
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    runs = json.loads(Path(job.input.published).read_text("utf-8"))["runs"]
    tables = {
        job.output.runs: runs_table(runs),
        job.output.repeats: repeats_table(runs, job.config["confidence"]),
    }
    for path, table in tables.items():
        job.write_table(path, table)
    job.write_manifest(list(tables))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
