"""Write generated copies of the benchmarks' data sets, for a rehearsal."""

from ablation.data.synthetic import write_synthetic_data
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    job.write_manifest(write_synthetic_data(job.home, job.config["data_sets"], job.config["seed"]))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
