"""Copy the splits on which benchmarks are scored from pinned data sets of the hub."""

from ablation.data import hub
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    pins, copies = job.config["pins"], []
    for data_set, parts in job.config["data_sets"].items():
        copies += hub.copy_splits(job.home, data_set, pins[data_set], parts)
    job.write_manifest(copies)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
