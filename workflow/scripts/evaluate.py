"""Score one checkpoint under several masks: the model is loaded once, each mask has its results."""

from pathlib import Path

from ablation.config.study import ComputeSettings
from ablation.data import hub
from ablation.model.checkpoints import load_on
from ablation.model.checks.agreement import require_agreement
from ablation.provenance.job import Job, run
from ablation.provenance.manifests import TRAINING_FACTS, write_manifest
from ablation.provenance.run_records import run_record
from ablation.scoring.evaluate import evaluate


def main(job: Job) -> None:
    config, manifest = job.config, job.input.model
    checkpoint = job.inputs[manifest]
    hardware = ComputeSettings.model_validate(config["hardware"])
    model, tokenizer = load_on(hardware, hub.model_folder(manifest, checkpoint))
    facts = {fact: checkpoint[fact] for fact in TRAINING_FACTS if fact in checkpoint}
    options = config["evaluation"] | {
        "task_folder": Path("config/tasks").resolve(),
        "data_folder": next((Path(p).parent for p in job.inputs if p != manifest), None),
        "checkpoint": Path(manifest).parent.as_posix(),
    }
    for mask, folder in zip(config["masks"], job.params.folders, strict=True):
        label = " ".join([job.rule, *map(str, job.wildcards), mask])
        with run_record(f"{folder}/run.json") as record:
            record["stock_agreement"] = require_agreement(model).as_dict()
            result = evaluate(model, tokenizer, mask=mask, label=label, **options)
        outputs = result.write(folder)
        facts["eval_leaks"] = result.facts["leak_audit"]["leaks"]
        facts["circumstances"] = result.circumstances | job.fingerprint["packages"]
        path = f"{folder}/manifest.json"
        write_manifest(path, job.fingerprint, outputs, mask=mask, **facts)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
