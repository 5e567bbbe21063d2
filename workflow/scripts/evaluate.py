"""Score one checkpoint under the masks asked for: one load, one set of results a mask."""

import json
from pathlib import Path

from ablation import hub, models, provenance
from ablation.machine import run_record
from ablation.progress import logged
from ablation.scoring import evaluate


def main(smk):
    stamp = json.loads(smk.params.stamp)
    config, inputs = stamp["config"], provenance.read_inputs(stamp)
    checkpoint = inputs[smk.input.model]
    weights = hub.model_folder(smk.input.model, checkpoint)
    model, tokenizer = models.load_on(config["hardware"], weights)
    facts = {k: checkpoint[k] for k in ("recipe", "seed", "train_leaks") if k in checkpoint}
    options = config["evaluation"] | {
        "task_folder": Path(smk.scriptdir).parents[1] / "config" / "tasks",
        "data_folder": next((Path(p).parent for p in inputs if p != smk.input.model), None),
        "checkpoint": Path(smk.input.model).parent.as_posix(),
    }
    for mask, folder in zip(config["masks"], smk.params.folders, strict=True):
        label = " ".join([smk.rule, *map(str, smk.wildcards), mask])
        with run_record(f"{folder}/run.json"):
            result = evaluate(model, tokenizer, mask=mask, label=label, **options)
        outputs = result.write(folder)
        leaks = result.metrics["leak_audit"]["leaks"]
        facts["circumstances"] = result.circumstances | stamp["packages"]
        manifest = f"{folder}/manifest.json"
        provenance.write_manifest(manifest, stamp, outputs, mask=mask, eval_leaks=leaks, **facts)


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
