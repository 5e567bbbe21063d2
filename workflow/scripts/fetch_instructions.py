"""Write the finetuning data: the first records of a pinned data set of the hub."""

from ablation.data import hub
from ablation.data.alpaca import first_records
from ablation.provenance.files import write_json_lines
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    data, count = (job.config["instructions"][key] for key in ("data", "count"))
    documents = hub.read_training_documents(data, job.config["pins"][data])
    write_json_lines(job.output.records, first_records(documents, count, data))
    job.write_manifest([job.output.records])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
