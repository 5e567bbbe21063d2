"""Pin the base model: one manifest that names each of its files by hash."""

import json
import os
from pathlib import Path

from ablation import hub, provenance
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp, manifest = json.loads(smk.params.stamp), smk.output.manifest
    provenance.read_inputs(stamp)
    model, revision = stamp["config"]["base"], stamp["config"].get("revision")
    if revision:  # the weights stay on the hub until a machine needs them
        provenance.write_manifest(manifest, stamp, [], **hub.model_facts(model, revision))
        return
    record = Path(smk.input.record)
    if record.name == "manifest.json":  # a base of our own: its bytes must be as recorded
        provenance.verify_outputs(record, json.loads(record.read_text()))
    inside = os.path.relpath(model, Path(manifest).parent)
    provenance.write_manifest(manifest, stamp, [model], model=inside)


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
