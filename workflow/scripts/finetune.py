"""Finetune the base by one recipe and seed; write the checkpoint, its summary and its curve."""

from functools import partial
from pathlib import Path

from ablation.config.study import ComputeSettings, Recipe
from ablation.data import hub
from ablation.interventions.loading import load_under, save_under
from ablation.interventions.registry import of_job
from ablation.provenance.files import write_json, write_json_lines
from ablation.provenance.job import Job, run
from ablation.training.checkpoints import claimed
from ablation.training.finetune import finetune


def main(job: Job) -> None:
    config, output, home = job.config, job.output, job.params.state
    name, seed, under = config["name"], config["seed"], of_job(job.config)
    recipe = Recipe.model_validate(config["recipe"])
    hardware = ComputeSettings.model_validate(config["hardware"])
    weights = hub.model_folder(job.input.base, job.inputs[job.input.base])
    data = Path(job.input.data).parent / "finetune.jsonl"
    load, label = partial(load_under, hardware, weights, under), f"{name} seed {seed}"
    with claimed(home, keep=job.options["keep_states"]):
        tuned = finetune(load, data, recipe, seed, hardware, label, home, None, under, job.nodes)
        job.record |= tuned.record
        form = save_under(hardware, tuned.model, tuned.tokenizer, output.model, under)
        if tuned.adapter is not None:  # in a folder of its own: beside the weights it is refused
            tuned.adapter.save(Path(output.model) / "adapter")
        write_json(output.summary, tuned.summary)
        write_json_lines(output.curve, tuned.curve)
        facts = {"model": "model", "format": form, "recipe": name, "seed": seed}
        facts |= {k: tuned.summary[k] for k in ("train_leaks", "families", "steps")}
        facts["records"] = tuned.summary["data_fingerprint"]
        facts |= {"trained_under": config["intervention"]} if under else {}
        job.write_manifest([output.model, output.summary, output.curve], **facts)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
