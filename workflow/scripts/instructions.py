"""Write the micro-world's finetuning data: Alpaca records from training scenes."""

from ablation.config.world import Finetuning
from ablation.micro_world.instructions import finetuning_records
from ablation.micro_world.scenes import World
from ablation.provenance.files import write_json_lines
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    block = dict(job.config["world"])
    chosen = Finetuning.model_validate(block.pop("finetuning"))
    records = finetuning_records(World(**block), chosen.count, chosen.seed, chosen.weights)
    write_json_lines(job.output.records, records)
    job.write_manifest([job.output.records])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
