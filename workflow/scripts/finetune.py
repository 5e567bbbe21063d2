"""Finetune the base by one recipe and seed; write the checkpoint, its summary and its curve."""

import json
from functools import partial
from pathlib import Path

from ablation import hub, machine, models, provenance
from ablation.finetune import finetune
from ablation.progress import logged
from ablation.states import claimed


def main(smk):
    stamp = json.loads(smk.params.stamp)
    base, config = provenance.read_inputs(stamp)[smk.input.base], stamp["config"]
    weights = hub.model_folder(smk.input.base, base)
    name, seed = config["name"], config["seed"]
    load = partial(models.load_on, config["hardware"], weights)
    data = Path(smk.input.data).parent / "finetune.jsonl"
    with claimed(smk.params.state, keep=smk.config["keep_states"]):
        with machine.run_record(smk.output.run) as record:
            how = {"recipe": config["recipe"], "hardware": config["hardware"], "seed": seed}
            label = f"{name} seed {seed}"
            tuned = finetune(load, data, **how, label=label, state=smk.params.state)
            record |= tuned.record
        form = models.save(tuned.model, tuned.tokenizer, smk.output.model)
        provenance.write_json(smk.output.summary, tuned.summary)
        provenance.write_json_lines(smk.output.curve, tuned.curve)
        outputs = [smk.output.model, smk.output.summary, smk.output.curve]
        facts = {"model": "model", "format": form, "recipe": name, "seed": seed}
        facts |= {"train_leaks": tuned.summary["train_leaks"]}
        provenance.write_manifest(smk.output.manifest, stamp, outputs, **facts)


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
