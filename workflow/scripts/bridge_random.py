"""Write the small folder of a model of random weights, for a rehearsal of the second study."""

import json

from ablation import provenance
from ablation.bridge.random_model import write_random_model
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    out = smk.output
    made = write_random_model(stamp["config"]["random"], out.model)
    provenance.write_manifest(out.manifest, stamp, [out.model], model="model", summary=made)


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
