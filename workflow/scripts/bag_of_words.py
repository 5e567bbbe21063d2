"""Write the bag-of-words baselines: the accuracy of models that ignore word order."""

from pathlib import Path

from ablation.analysis.bag_of_words import bag_of_words
from ablation.data.json_lines import read_json_lines
from ablation.micro_world.scenes import World
from ablation.provenance.job import Job, run
from ablation.vocabulary.micro_tasks import TASKS


def main(job: Job) -> None:
    home = Path(job.input.data).parent
    items = {task: read_json_lines(home / f"{task}.jsonl") for task in TASKS}
    block = dict(job.config["world"])
    block.pop("items")  # the items are read from their files
    table = bag_of_words(World(**block), items)
    job.write_table(job.output.table, table)
    job.write_manifest([job.output.table])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
