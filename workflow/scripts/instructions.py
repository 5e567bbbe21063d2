"""Write the micro-world's finetuning data: Alpaca records from training scenes."""

import json

from ablation import provenance
from ablation.machine import run_record
from ablation.progress import logged
from ablation.world.instructions import finetuning_records
from ablation.world.scenes import world_of


def main(smk):
    stamp = json.loads(smk.params.stamp)
    config = stamp["config"]["world"]
    records = finetuning_records(world_of(config), **config["finetuning"])
    provenance.write_json_lines(smk.output.records, records)
    provenance.write_manifest(smk.output.manifest, stamp, [smk.output.records])


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
