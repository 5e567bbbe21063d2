"""Write the report's pages, each from the table that it shows."""

import json
from pathlib import Path

from ablation import charts, pages, provenance
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    provenance.read_inputs(stamp)
    for page, table in stamp["config"]["pages"].items():
        draw = getattr(pages, page)
        provenance.write_text(smk.output[page], draw(charts.read(smk.input[table])))
    outputs = [smk.output[page] for page in stamp["config"]["pages"]]
    provenance.write_manifest(smk.output.manifest, stamp, outputs=map(Path, outputs))


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
