"""Score one checkpoint under several conditions: it is loaded once, each has its own results."""

from pathlib import Path

from ablation.config.study import ComputeSettings
from ablation.data import hub
from ablation.interventions.loading import load_under
from ablation.interventions.registry import of_job
from ablation.model.checks.agreement import require_agreement
from ablation.provenance.job import Job, run
from ablation.provenance.manifests import TRAINING_FACTS, write_manifest
from ablation.provenance.run_records import run_record
from ablation.scoring.evaluate import evaluate
from ablation.scoring.items import Items


def main(job: Job) -> None:
    config, manifest, taken = job.config, job.input.model, of_job(job.config)
    checkpoint, hardware = job.inputs[manifest], ComputeSettings.model_validate(config["hardware"])
    folder, place = hub.model_folder(manifest, checkpoint), Path(manifest).parent.as_posix()
    model, tokenizer = load_under(hardware, folder, taken, checkpoint.get("trained_under"))
    facts = {fact: checkpoint[fact] for fact in TRAINING_FACTS if fact in checkpoint}
    data = next((Path(p).parent for p in job.inputs if p != manifest), None)
    options = dict(config["evaluation"])
    sizes = {key: options.pop(key) for key in ("row_tokens", "batch_tokens")}
    items = Items(tokenizer, task_folder="config/tasks", data_folder=data, **options)
    for mask, home in zip(config["masks"], job.params.folders, strict=True):
        name, parts = config.get("condition", mask), [job.rule, *map(str, job.wildcards), mask]
        options = sizes | {"intervention": taken, "condition": name, "label": " ".join(parts)}
        with run_record(f"{home}/run.json") as record:
            record["stock_agreement"] = require_agreement(model).as_dict()
            result = evaluate(model, items, mask, place, **options)
        facts["eval_leaks"] = result.facts["leak_audit"]["leaks"]
        facts["circumstances"] = result.circumstances | job.fingerprint["packages"]
        outputs = result.write(home)
        write_manifest(f"{home}/manifest.json", job.fingerprint, outputs, mask=name, **facts)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
