"""Count what became of each item under every recipe and ablated mask."""

import json
from pathlib import Path

from ablation import provenance
from ablation.conditions import read_conditions
from ablation.flips import flips_table
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    conditions = read_conditions(provenance.read_inputs(stamp))
    table = flips_table(stamp["config"]["study"], conditions, stamp["config"]["metric"])
    provenance.write_text(smk.output.table, table.to_csv(index=False))
    provenance.write_manifest(smk.output.manifest, stamp, outputs=[Path(smk.output.table)])


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
