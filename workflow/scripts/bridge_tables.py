"""Make every table of the second study from its sample rows."""

import json
from pathlib import Path

from ablation import provenance
from ablation.bridge.all_tables import study_tables
from ablation.machine import run_record
from ablation.progress import logged

READ = ("samples.parquet", "summary.json", "curve.jsonl", "inference_per_sample.jsonl")


def main(smk):
    stamp = json.loads(smk.params.stamp)
    manifests = provenance.read_inputs(stamp, only=READ)
    homes = {Path(path).parent: manifest for path, manifest in manifests.items()}
    tables = study_tables(homes, stamp["config"])
    outputs = []
    for path in map(Path, smk.output.tables):
        provenance.write_text(path, tables[path.stem].to_csv(index=False))
        outputs.append(path)
    provenance.write_manifest(smk.output.manifest, stamp, outputs)


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
