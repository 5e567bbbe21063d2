"""Write the micro-world's data: items per task and finetuning records."""

import json
from pathlib import Path

from ablation import provenance
from ablation.progress import logged
from ablation.world.corpus import finetuning_records
from ablation.world.scenes import TASKS, World
from ablation.world.tasks import items


def main(smk):
    stamp = json.loads(smk.params.stamp)
    config = stamp["config"]["world"]
    world = World(config["seed"], config["eval_percent"], config["dev_percent"])
    files = {
        task: items(world, task, config["items"]["count"], config["items"]["seed"])
        for task in TASKS
    }
    wanted = config["finetuning"]
    files["finetune"] = finetuning_records(
        world, wanted["count"], wanted["seed"], wanted["weights"]
    )
    home = Path(smk.output.manifest).parent
    for name, records in files.items():
        provenance.write_json_lines(home / f"{name}.jsonl", records)
    outputs = [path for path in map(Path, smk.output) if path.name != "manifest.json"]
    provenance.write_manifest(smk.output.manifest, stamp, outputs)


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
