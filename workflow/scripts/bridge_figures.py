"""Draw one figure of the second study from its tables."""

import json
from pathlib import Path

from ablation import charts, provenance
from ablation.bridge import figures
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    provenance.read_inputs(stamp)
    draw = getattr(figures, stamp["config"]["figure"])
    chart = draw(*map(charts.read, smk.input.tables), **stamp["config"]["options"])
    drawn = [Path(path) for path in smk.output if Path(path).suffix != ".json"]
    for path in drawn:
        provenance.write_bytes(path, charts.render(chart, path.suffix))
    provenance.write_manifest(smk.output.manifest, stamp, drawn)


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
