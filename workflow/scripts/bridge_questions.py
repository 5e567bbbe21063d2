"""Write the questions of every regime and split."""

import json
from pathlib import Path

from ablation import provenance
from ablation.bridge import readers
from ablation.bridge.prompts import SPLITS
from ablation.bridge.world.questions import Numbers
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp, outputs, read = json.loads(smk.params.stamp), [], {}
    config, home = stamp["config"], Path(smk.output.manifest).parent
    for regime in config["regimes"]:
        if regime in config.get("data", ()):
            pin = config["pins"].get(config["data"][regime]["data"])
            made, read[regime] = readers.read_splits(regime, config["data"][regime], pin)
        else:
            world, counts = Numbers(config["world"]), config["questions"]
            made = {split: world.questions(regime, split, counts[split]) for split in SPLITS}
        for split in SPLITS:
            outputs.append(home / regime / f"{split}.jsonl")
            provenance.write_json_lines(outputs[-1], made[split])
    if rehearsal := config.get("rehearsal_of"):
        provenance.write_text(home.parent / "README.md", readers.NOTICE.format(study=rehearsal))
    facts = {"read": read} if read else {}
    provenance.write_manifest(smk.output.manifest, stamp, outputs, **facts)


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
