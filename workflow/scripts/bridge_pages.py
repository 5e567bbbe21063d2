"""Write the second study's pages of the report from its tables."""

import json
from pathlib import Path

from ablation import charts, provenance
from ablation.bridge import pages
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp, outputs = json.loads(smk.params.stamp), []
    provenance.read_inputs(stamp)
    home = Path(smk.output.manifest).parent
    for page, tables in stamp["config"]["pages"].items():
        read = [charts.read(home.parent / f"{table}.csv") for table in tables]
        outputs.append(home / f"{page}.html")
        provenance.write_text(outputs[-1], getattr(pages, page)(*read))
    provenance.write_manifest(smk.output.manifest, stamp, outputs)


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
