"""Tabulate the published bridge runs: which test a bridge, and what repeats of one config give."""

import json
from pathlib import Path

from ablation import provenance
from ablation.bridge.published import repeats_table, runs_table
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    runs = json.loads(Path(smk.input.published).read_text())["runs"]
    tables = {
        smk.output.runs: runs_table(runs),
        smk.output.repeats: repeats_table(runs, stamp["config"]["confidence"]),
    }
    for path, table in tables.items():
        provenance.write_text(path, table.to_csv(index=False))
    provenance.write_manifest(smk.output.manifest, stamp, list(tables))


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
