"""Write the published numbers and the study's own into one table."""

import json
from pathlib import Path

import pandas as pd

from ablation import provenance
from ablation.machine import run_record
from ablation.progress import logged
from ablation.published import side_by_side


def main(smk):
    stamp = json.loads(smk.params.stamp)
    provenance.read_inputs(stamp)
    published = json.loads(Path(smk.input.published).read_text())
    recovery = pd.read_csv(smk.input.recovery, dtype=str, keep_default_na=False)
    frame = side_by_side(published, recovery, stamp["config"])
    provenance.write_text(smk.output.table, frame.to_csv(index=False))
    provenance.write_manifest(smk.output.manifest, stamp, outputs=[smk.output.table])


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
