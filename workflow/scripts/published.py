"""Write one table with the published numbers and those of the study."""

import json
from pathlib import Path

from ablation.analysis.published import PublishedSettings, side_by_side
from ablation.provenance.job import Job, run
from ablation.provenance.tables import read_csv


def main(job: Job) -> None:
    published = json.loads(Path(job.input.published).read_text("utf-8"))
    recovery = read_csv(job.input.recovery, dtype=str, keep_default_na=False)
    table = side_by_side(published, recovery, PublishedSettings.model_validate(job.config))
    job.write_table(job.output.table, table)
    job.write_manifest([job.output.table])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
