"""Pretrain the base of the micro study (`base: pretrain`)."""

from ablation.config.world import Pretrain
from ablation.micro_world.pretrain import pretrain
from ablation.micro_world.scenes import World
from ablation.provenance.job import Job, run
from ablation.provenance.run_records import processor_name


def main(job: Job) -> None:
    block = dict(job.config["world"])
    recipe = Pretrain.model_validate(block.pop("pretrain"))
    summary = pretrain(World(**block), recipe, job.output.model)
    facts = {"model": "base", "summary": summary, "processor": processor_name()}
    job.write_manifest([job.output.model], **facts)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
