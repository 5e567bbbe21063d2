"""Train and evaluate every translator of one regime and seed."""

from pathlib import Path

from ablation.bridge.evaluation.sample_rows import write_samples
from ablation.bridge.model.pair import AnsweringModels
from ablation.bridge.model.prompt_encoder import PromptFormat
from ablation.bridge.model.splits import read_splits
from ablation.bridge.training.cells import run_cells
from ablation.config.bridge_blocks import Recipe
from ablation.config.study import ComputeSettings
from ablation.data import hub
from ablation.provenance.files import write_json, write_json_lines
from ablation.provenance.job import Job, run
from ablation.training.checkpoints import claimed


def main(job: Job) -> None:
    config, output, home = job.config, job.output, job.params.state
    regime, seed = config["regime"], config["seed"]
    hardware = ComputeSettings(**config["hardware"])
    recipes = {name: Recipe(**own, regimes=[regime]) for name, own in config["recipes"].items()}
    models = (job.input.source, job.input.target)
    folders = [hub.model_folder(model, job.inputs[model]) for model in models]
    questions, caches = (Path(job.input.questions).parent, map(Path, job.input.activations))
    splits = {own.parent.name: read_splits(questions, own.parent, regime) for own in caches}
    with claimed(home, keep=job.options["keep_states"]):
        answering = AnsweringModels(folders, hardware, PromptFormat(**config["words"]))
        where = (home, output.translators)
        cells = run_cells(answering, splits, recipes, regime, seed, hardware, *where)
        job.record["cells"] = cells.record
        write_samples(output.samples, cells.samples)
        write_json(output.summary, cells.summary)
        write_json_lines(output.curve, cells.curve)
        outputs = [output.translators, output.samples, output.summary, output.curve]
        job.write_manifest(outputs, regime=regime, seed=seed)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
