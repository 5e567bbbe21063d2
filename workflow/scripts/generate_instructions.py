"""Write generated finetuning data with the lengths of real data, for a rehearsal."""

from ablation.data.synthetic import alpaca_records
from ablation.provenance.files import write_json_lines
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    records = alpaca_records(job.config["instructions"]["count"], job.config["seed"])
    write_json_lines(job.output.records, records)
    job.write_manifest([job.output.records])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
