"""Write the shape and the tokenizer of a model with random weights, for a rehearsal."""

from ablation.bridge.model.random_model import write_random_model
from ablation.config.bridge_blocks import RandomModel
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    size = RandomModel.model_validate(job.config["random"])
    summary = write_random_model(size, job.output.model)
    job.write_manifest([job.output.model], model="model", summary=summary)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
