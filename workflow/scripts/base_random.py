"""Write a base of random weights for a rehearsal, and the notice that its numbers mean nothing."""

import json

from ablation import provenance
from ablation.machine import run_record
from ablation.progress import logged
from ablation.random_base import NOTICE, write_random_base


def main(smk):
    stamp = json.loads(smk.params.stamp)
    config = stamp["config"]
    made = write_random_base(config["random"], smk.output.model)
    provenance.write_text(smk.output.notice, NOTICE.format(study=config["study"]))
    provenance.write_manifest(
        smk.output.manifest, stamp, outputs=[smk.output.model], model="base", summary=made
    )


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
