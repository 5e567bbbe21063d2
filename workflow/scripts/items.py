"""Write the micro-world's multiple-choice items, one file for each task."""

from ablation.config.world import Items
from ablation.micro_world.scenes import World
from ablation.micro_world.tasks import items
from ablation.provenance.files import write_json_lines
from ablation.provenance.job import Job, run
from ablation.vocabulary.micro_tasks import TASKS


def main(job: Job) -> None:
    block = dict(job.config["world"])
    chosen = Items.model_validate(block.pop("items"))
    world = World(**block)
    outputs = [job.home / f"{task}.jsonl" for task in TASKS]
    for task, path in zip(TASKS, outputs, strict=True):
        write_json_lines(path, items(world, task, chosen.count, chosen.seed))
    job.write_manifest(outputs)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
