"""Continue the same prompts with the base and with each recipe's checkpoint of one seed."""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from ablation import provenance
from ablation.machine import run_record
from ablation.progress import logged
from ablation.sample import models_of, prompts_of, sample


def main(smk):
    stamp = json.loads(smk.params.stamp)
    provenance.read_inputs(stamp)
    asked, hardware = stamp["config"]["samples"], stamp["config"]["hardware"]
    results = Path(smk.output.table).parent
    torch.set_num_threads(hardware["threads"])
    found = sample(
        models_of(results, [], [stamp["config"]["seed"]]),
        prompts_of(results, asked["prompts"], None, instructions=False),
        asked["masks"],
        max_new_tokens=asked["max_new_tokens"],
        temperature=0.0,
        seed=0,
        device="cuda" if hardware["gpu"] else "cpu",
        dtype=hardware["dtype"],
    )
    table = pd.DataFrame(map(asdict, found)).astype({"seed": "Int64"})  # the base has none
    provenance.write_text(smk.output.table, table.to_csv(index=False))
    provenance.write_manifest(smk.output.manifest, stamp, outputs=[Path(smk.output.table)])


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
