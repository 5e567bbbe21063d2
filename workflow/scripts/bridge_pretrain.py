"""Pretrain the source or the target of the micro bridge from nothing."""

import json

from ablation import machine, provenance
from ablation.bridge.world.pretrain import pretrain
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    config, out = stamp["config"], smk.output.model
    device = "cuda" if config["gpu"] else "cpu"
    with machine.run_record(smk.output.run):
        summary = pretrain(config["world"], config["role"], config["recipe"], out, device)
    provenance.write_manifest(
        smk.output.manifest,
        stamp,
        outputs=[smk.output.model],
        model="model",
        summary=summary,
        processor=provenance.processor(),
    )


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
