"""Pretrain the micro base from nothing (`base: pretrain`)."""

import json

from ablation import provenance
from ablation.machine import run_record
from ablation.progress import logged
from ablation.world.pretrain import pretrain


def main(smk):
    stamp = json.loads(smk.params.stamp)
    with run_record(smk.output.run):
        summary = pretrain(stamp["config"]["world"], smk.output.model)
    provenance.write_manifest(
        smk.output.manifest,
        stamp,
        outputs=[smk.output.model],
        model="base",
        summary=summary,
        processor=provenance.processor(),
    )


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
