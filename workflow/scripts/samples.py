"""Continue the same prompts with the base and with each recipe's checkpoint of one seed."""

from dataclasses import asdict

import pandas as pd
import torch

from ablation.config.study import ComputeSettings, Samples
from ablation.provenance.job import Job, run
from ablation.provenance.tables import write_table
from ablation.scoring.generate import models_of, prompts_of, sample


def main(job: Job) -> None:
    block = dict(job.config["samples"])
    masks, chosen = block.pop("masks"), Samples.model_validate(block)
    hardware = ComputeSettings.model_validate(job.config["hardware"])
    results = job.home
    recipes = {manifest["recipe"] for manifest in job.inputs.values() if "recipe" in manifest}
    torch.set_num_threads(hardware.threads)
    continuations = sample(
        models_of(results, ["base", *recipes], [job.config["seed"]]),
        prompts_of(results, chosen.prompts, None, instructions=False),
        masks,
        max_new_tokens=chosen.max_new_tokens,
        temperature=0.0,
        seed=0,
        device=hardware.torch_device,
        dtype=hardware.dtype,
    )
    table = pd.DataFrame(map(asdict, continuations)).astype({"seed": "Int64"})  # the base has none
    write_table(job.output.table, table)
    job.write_manifest([job.output.table])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
