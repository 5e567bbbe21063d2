"""Write a decoder of random weights, for a rehearsal."""

from ablation.config.study import RandomBase
from ablation.model.random_base import NOTICE, write_random_base
from ablation.provenance.files import write_text
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    block = RandomBase.model_validate(job.config["random"])
    made = write_random_base(block, job.output.model)
    write_text(job.output.notice, NOTICE.format(study=job.config["study"]))
    job.write_manifest([job.output.model], model="base", summary=made)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
