"""Measure the KV cache, latency and quality of the arms, one question at a time."""

from pathlib import Path

from ablation.bridge.data.question_files import read_questions
from ablation.bridge.evaluation.costs import arm_sections, costs_per_sample
from ablation.bridge.model.pair import load_pair
from ablation.bridge.model.prompt_encoder import PromptFormat
from ablation.bridge.model.translator import load_translator
from ablation.config.bridge_blocks import Inference, Recipe
from ablation.config.study import ComputeSettings
from ablation.data import hub
from ablation.provenance.files import write_json_lines
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    config, regime = job.config, job.config["regime"]
    wanted = Inference.model_validate(config["inference"])
    k = wanted.soft_tokens
    recipe = Recipe.model_validate(config["recipe"] | {"regimes": [regime], "soft_tokens": [k]})
    models = (job.input.source, job.input.target)
    hardware = ComputeSettings.model_validate(config["hardware"])
    folders = [hub.model_folder(model, job.inputs[model]) for model in models]
    pair = load_pair(folders, hardware, PromptFormat(**config["words"]))
    file = Path(job.input.cells).parent / "translators" / f"{wanted.recipe}-k{k}.safetensors"
    translator = load_translator(file, recipe, k, pair)
    questions = Path(job.input.questions).parent
    records = read_questions(questions, regime, "test")[: wanted.samples]
    costs = costs_per_sample(pair, translator, recipe, config["layer"], records, wanted.warm_up)
    job.record["sections"] = arm_sections(costs)
    write_json_lines(job.output.samples, costs)
    job.write_manifest([job.output.samples], regime=regime)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
