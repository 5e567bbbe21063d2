"""Write the questions of every regime and split."""

import json
from pathlib import Path

from ablation import provenance
from ablation.bridge.prompts import SPLITS
from ablation.bridge.world.questions import Numbers
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp, outputs = json.loads(smk.params.stamp), []
    config, home = stamp["config"], Path(smk.output.manifest).parent
    world = Numbers(config["world"])
    for regime in config["regimes"]:
        for split in SPLITS:
            outputs.append(home / regime / f"{split}.jsonl")
            made = world.questions(regime, split, config["questions"][split])
            provenance.write_json_lines(outputs[-1], made)
    provenance.write_manifest(smk.output.manifest, stamp, outputs)


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
