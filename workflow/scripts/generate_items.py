"""Write made-up copies of the benchmarks' data sets, for a rehearsal."""

import json
from pathlib import Path

from ablation import provenance
from ablation.generated import write_copies
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp, home = json.loads(smk.params.stamp), Path(smk.output.manifest).parent
    copies = write_copies(home, stamp["config"]["data_sets"], stamp["config"]["seed"])
    provenance.write_manifest(smk.output.manifest, stamp, copies)


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
