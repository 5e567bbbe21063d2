"""Finetune the base by one recipe and seed; write the checkpoint, its summary and its curve."""

import json
import tempfile
from pathlib import Path

from ablation import models, provenance
from ablation.finetune import finetune
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    base, config = provenance.read_inputs(stamp)[smk.input.base], stamp["config"]
    name, seed = config["name"], config["seed"]
    weights = Path(smk.input.base).parent / base["model"]
    model, tokenizer = models.load_on(config["hardware"], weights)
    data = Path(smk.input.data).parent / "finetune.jsonl"
    label = f"{name} seed {seed}"
    with provenance.run_record(smk.output.run) as record, tempfile.TemporaryDirectory() as scratch:
        summary, curve = finetune(
            model, tokenizer, data, config["recipe"], seed, config["hardware"], label, scratch
        )
        record["stop_reason"] = summary["stop_reason"]
    models.save(model, tokenizer, smk.output.model)
    provenance.write_json(smk.output.summary, summary)
    provenance.write_json_lines(smk.output.curve, curve)
    outputs = [smk.output.model, smk.output.summary, smk.output.curve]
    facts = {"model": "model", "recipe": name, "seed": seed, "train_leaks": summary["train_leaks"]}
    provenance.write_manifest(smk.output.manifest, stamp, outputs, **facts)


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
