"""Score one checkpoint under several conditions: it is loaded once, each has its own results."""

from pathlib import Path

from ablation.config.study import ComputeSettings
from ablation.data import hub
from ablation.interventions.registry import of_job
from ablation.provenance.job import Job, run
from ablation.provenance.manifests import TRAINING_FACTS, write_manifest
from ablation.scoring.job import Scoring, score_on


def main(job: Job) -> None:
    config, manifest, masks = job.config, job.input.model, job.config["masks"]
    checkpoint = job.inputs[manifest]
    names = [config.get("condition", mask) for mask in masks]
    scoring = Scoring(
        ComputeSettings.model_validate(config["hardware"]),
        hub.model_folder(manifest, checkpoint),
        name=Path(manifest).parent.as_posix(),
        taken=of_job(config),
        trained_under=checkpoint.get("trained_under"),
        evaluation=config["evaluation"],
        data=next((Path(p).parent for p in job.inputs if p != manifest), None),
        task_folder="config/tasks",
        masks=masks,
        conditions=names,
        homes=list(job.params.folders),
        label=" ".join([job.rule, *map(str, job.wildcards)]),
    )
    facts = {fact: checkpoint[fact] for fact in TRAINING_FACTS if fact in checkpoint}
    found = score_on(scoring, job.gpus)
    for name, home, scored in zip(names, scoring.homes, found, strict=True):
        facts["eval_leaks"] = scored.leaks
        facts["circumstances"] = scored.circumstances | job.fingerprint["packages"]
        write_manifest(f"{home}/manifest.json", job.fingerprint, scored.outputs, mask=name, **facts)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
