"""Write made-up finetuning data at the lengths of real ones, for a rehearsal."""

import json

from ablation import provenance
from ablation.generated import alpaca_records
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    records = alpaca_records(stamp["config"]["instructions"]["count"], stamp["config"]["seed"])
    provenance.write_json_lines(smk.output.records, records)
    provenance.write_manifest(smk.output.manifest, stamp, [smk.output.records])


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
