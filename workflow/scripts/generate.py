"""Generate the texts of one checkpoint's generation tasks under one condition, and judge them."""

from pathlib import Path

from ablation.config.study import ComputeSettings
from ablation.data import hub
from ablation.interventions.loading import load_under
from ablation.interventions.registry import of_job
from ablation.model.checks.agreement import require_agreement
from ablation.provenance.job import Job, run
from ablation.provenance.manifests import TRAINING_FACTS
from ablation.scoring.generation.evaluate import evaluate_generation
from ablation.scoring.generation.items import GenerationItems


def main(job: Job) -> None:
    config, manifest, taken = job.config, job.input.model, of_job(job.config)
    checkpoint, hardware = job.inputs[manifest], ComputeSettings.model_validate(config["hardware"])
    folder, place = hub.model_folder(manifest, checkpoint), Path(manifest).parent.as_posix()
    model, tokenizer = load_under(hardware, folder, taken, checkpoint.get("trained_under"))
    facts = {fact: checkpoint[fact] for fact in TRAINING_FACTS if fact in checkpoint}
    data = {"data_folder": job.params.data, "world_folder": job.params.world}
    items = GenerationItems(tokenizer, task_folder="config/tasks", **data, **config["evaluation"])
    (mask,), name = config["masks"], config["condition"]
    label = " ".join([job.rule, *map(str, job.wildcards)])
    job.record["stock_agreement"] = require_agreement(model).as_dict()
    options = {"intervention": taken, "condition": name, "label": label}
    result = evaluate_generation(model, items, mask, place, **options)
    facts["eval_leaks"] = result.facts["leak_audit"]["leaks"]
    facts["circumstances"] = result.circumstances | job.fingerprint["packages"]
    job.write_manifest(result.write(job.home), mask=name, **facts)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
