"""Write the micro-world's multiple-choice items, one file a task."""

import json
from pathlib import Path

from ablation import provenance
from ablation.machine import run_record
from ablation.progress import logged
from ablation.world.scenes import TASKS, world_of
from ablation.world.tasks import items


def main(smk):
    stamp = json.loads(smk.params.stamp)
    config, home = stamp["config"]["world"], Path(smk.output.manifest).parent
    world, wanted = world_of(config), config["items"]
    outputs = [home / f"{task}.jsonl" for task in TASKS]
    for task, path in zip(TASKS, outputs, strict=True):
        made = items(world, task, wanted["count"], wanted["seed"])
        provenance.write_json_lines(path, made)
    provenance.write_manifest(smk.output.manifest, stamp, outputs)


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
