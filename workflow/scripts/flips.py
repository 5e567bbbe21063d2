"""Write how many items were right or wrong before and after finetuning, under each mask."""

from ablation.analysis.conditions import read_conditions
from ablation.analysis.flips import flips_table
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    conditions = read_conditions(job.inputs)
    table = flips_table(job.config["study"], conditions, job.config["metric"])
    job.write_table(job.output.table, table)
    job.write_manifest([job.output.table])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
