"""Bring the splits that the benchmarks are scored on, from the hub at the pinned commits."""

import json
from pathlib import Path

from ablation import hub, provenance
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp, home = json.loads(smk.params.stamp), Path(smk.output.manifest).parent
    config, copies = stamp["config"], []
    for data_set, parts in config["data_sets"].items():
        copies += hub.copy_splits(home, data_set, config["pins"][data_set], parts)
    provenance.write_manifest(smk.output.manifest, stamp, copies)


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
