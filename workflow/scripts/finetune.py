"""Finetune the base by one recipe and seed; write the checkpoint, its summary and its curve."""

import json
import tempfile
from pathlib import Path

from ablation import models, provenance
from ablation.finetune import finetune
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    base = provenance.read_inputs(stamp)[smk.input.base]
    home, config = Path(smk.input.base).parent, stamp["config"]
    model, tokenizer = models.load_on(config["hardware"], home / base["model"])
    with provenance.run_record(smk.output.run) as record, tempfile.TemporaryDirectory() as scratch:
        summary, curve = finetune(
            model,
            tokenizer,
            data=home / base["data"] / "finetune.jsonl",
            recipe=config["recipe"],
            seed=config["seed"],
            hardware=config["hardware"],
            label=f"{config['name']} seed {config['seed']}",
            scratch=scratch,
        )
        record["stop_reason"] = summary["stop_reason"]
    models.save(model, tokenizer, smk.output.model)
    provenance.write_json(smk.output.summary, summary)
    lines = [provenance.canonical_json(point) + "\n" for point in curve]
    provenance.write_text(smk.output.curve, "".join(lines))
    provenance.write_manifest(
        smk.output.manifest,
        stamp,
        outputs=[smk.output.model, smk.output.summary, smk.output.curve],
        model="model",
        recipe=config["name"],
        seed=config["seed"],
        train_leaks=summary["train_leaks"],
    )


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
