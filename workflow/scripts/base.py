"""Pin the base model: one manifest that names each of its files by hash."""

import json
import os
from pathlib import Path

from ablation import provenance
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    provenance.read_inputs(stamp)
    model, record = Path(stamp["config"]["base"]), Path(smk.input.record)
    if record.name == "manifest.json":  # a base of our own: its bytes must be as recorded
        provenance.verify_outputs(record, json.loads(record.read_text()))
    home = Path(smk.output.manifest).parent
    provenance.write_manifest(
        smk.output.manifest, stamp, outputs=[model], model=os.path.relpath(model, home)
    )


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
