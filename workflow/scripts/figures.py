"""Draw the study's figures from its tables."""

import json
from pathlib import Path

import pandas as pd

from ablation import figures, provenance
from ablation.progress import logged


def main(smk):
    provenance.read_inputs(json.loads(smk.params.stamp))
    chart = figures.accuracy(pd.read_csv(smk.input.per_task))
    for path in map(Path, smk.output):
        provenance.write_bytes(path, figures.render(chart, path.suffix))


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
