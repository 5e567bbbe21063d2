"""How far each task gets without word order: a conditional logit on bags of words."""

import json
from pathlib import Path

from ablation import provenance
from ablation.machine import run_record
from ablation.progress import logged
from ablation.world.baselines import bag_of_words
from ablation.world.scenes import TASKS, world_of


def main(smk):
    stamp = json.loads(smk.params.stamp)
    provenance.read_inputs(stamp)
    home = Path(smk.input.data).parent
    items = {task: provenance.read_json_lines(home / f"{task}.jsonl") for task in TASKS}
    world = world_of(stamp["config"]["world"])
    provenance.write_text(smk.output.table, bag_of_words(world, items).to_csv(index=False))
    provenance.write_manifest(smk.output.manifest, stamp, outputs=[smk.output.table])


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
