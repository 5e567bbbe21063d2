"""Write the finetuning data: the first records of files on this machine."""

from ablation.data.alpaca import first_records
from ablation.data.instruction_files import read_instructions
from ablation.data.local_files import home_of, unchanged
from ablation.provenance.files import write_json_lines
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    home = home_of(job.options["instructions"]["data"])
    files = [file for _, file in unchanged(home, job.config["files"])]
    records = [record for file in files for record in read_instructions(file)]
    if not records:
        raise ValueError(f"no record in {', '.join(map(str, files))}")
    count = job.config.get("count", len(records))
    named = ", ".join(map(str, files))
    write_json_lines(job.output.records, first_records(records, count, named))
    job.write_manifest([job.output.records])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
