"""Copy the splits that tasks read from a folder on this machine."""

import shutil

from ablation.data.local_files import unchanged
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    copies = []
    for name, file in unchanged(job.options["evaluation"]["data_folder"], job.config["files"]):
        copies.append(job.home / name)
        copies[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copies[-1])
    job.write_manifest(copies)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
