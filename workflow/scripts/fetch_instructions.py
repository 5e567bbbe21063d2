"""Bring the finetuning data from the hub at its pinned commit, as Alpaca records."""

import json

from ablation import hub, provenance
from ablation.alpaca import first_records
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    data, count = (stamp["config"]["instructions"][key] for key in ("data", "count"))
    documents = hub.training_documents(data, stamp["config"]["pins"][data])
    provenance.write_json_lines(smk.output.records, first_records(documents, count, data))
    provenance.write_manifest(smk.output.manifest, stamp, [smk.output.records])


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
