"""Pretrain the source or the target of the micro bridge from random weights."""

from ablation.bridge.training.pretrain import pretrain
from ablation.config.bridge_blocks import Pretrain, QuestionWorld
from ablation.provenance.job import Job, run
from ablation.provenance.run_records import processor_name


def main(job: Job) -> None:
    config, device = job.config, "cuda" if job.config["gpu"] else "cpu"
    world = QuestionWorld.model_validate(config["world"])
    recipe = Pretrain.model_validate(config["recipe"])
    summary = pretrain(world, config["role"], recipe, job.output.model, device)
    facts = {"model": "model", "summary": summary, "processor": processor_name()}
    job.write_manifest([job.output.model], **facts)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
