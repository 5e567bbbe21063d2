"""Score one checkpoint under the masks asked for: one load, one set of results a mask."""

import json
from pathlib import Path

from ablation import models, provenance
from ablation.progress import logged
from ablation.scoring import evaluate


def main(smk):
    stamp = json.loads(smk.params.stamp)
    inputs = provenance.read_inputs(stamp)
    config = stamp["config"]["evaluation"]
    data = Path(smk.input.base).parent / inputs[smk.input.base]["data"]
    checkpoint = inputs[smk.input.model]
    weights = Path(smk.input.model).parent / checkpoint["model"]
    model, tokenizer = models.load_on(stamp["config"]["hardware"], weights)
    folders = sorted({Path(file).parent for file in smk.output})
    for mask in stamp["config"]["masks"]:
        folder = folders[0] if len(folders) == 1 else next(f for f in folders if f.name == mask)
        with provenance.run_record(folder / "run.json"):
            result = evaluate(
                model,
                tokenizer,
                mask=mask,
                task_folder="config/tasks",
                data_folder=data,
                label=f"{smk.rule} {' '.join(smk.wildcards)} {mask}",
                **config,
            )
        provenance.write_json(folder / "metrics.json", result.metrics)
        with provenance.atomic_path(folder / "samples.parquet") as scratch:
            result.samples.to_parquet(scratch, index=False)
        provenance.write_manifest(
            folder / "manifest.json",
            stamp,
            outputs=[folder / "metrics.json", folder / "samples.parquet"],
            mask=mask,
            eval_leaks=result.metrics["leak_audit"]["leaks"],
            circumstances=models.circumstances(model) | stamp["packages"],
            **{k: checkpoint[k] for k in ("recipe", "seed", "train_leaks") if k in checkpoint},
        )


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
