"""How far each task gets without word order: a conditional logit on bags of words."""

import json
from pathlib import Path

from ablation import provenance
from ablation.progress import logged
from ablation.world.baselines import bag_of_words
from ablation.world.scenes import TASKS, World


def main(smk):
    stamp = json.loads(smk.params.stamp)
    provenance.read_inputs(stamp)
    config, home = stamp["config"]["world"], Path(smk.input.data).parent
    world = World(config["seed"], config["eval_percent"], config["dev_percent"])
    lines = {task: (home / f"{task}.jsonl").read_text().splitlines() for task in TASKS}
    items = {task: [json.loads(line) for line in lines[task]] for task in TASKS}
    provenance.write_text(smk.output.table, bag_of_words(world, items).to_csv(index=False))


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
