"""Copy the recovery table of the study, once it and every metrics.json are as they were made."""

from pathlib import Path

from ablation.provenance.files import write_bytes
from ablation.provenance.job import Job, run
from ablation.provenance.manifests import load_manifest, verify_outputs


def main(job: Job) -> None:
    read = {Path(path).name for path in job.input}
    for path in job.input:
        if path.endswith("manifest.json"):
            verify_outputs(path, load_manifest(path), read)
    write_bytes(job.output.table, Path(job.input.recovery).read_bytes())


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
