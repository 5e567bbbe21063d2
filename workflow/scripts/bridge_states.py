"""Run the frozen models once on every question: cache activations, evaluate unbridged arms."""

from pathlib import Path

from ablation.bridge.data.question_files import read_questions
from ablation.bridge.evaluation.kv_cache import memory_facts
from ablation.bridge.evaluation.sample_rows import write_samples
from ablation.bridge.evaluation.section_meter import SectionMeter
from ablation.bridge.evaluation.unbridged_arms import AnswerLimits, unbridged_rows
from ablation.bridge.evaluation.write_activations import ReadOptions, write_activations
from ablation.bridge.model.pair import load_pair
from ablation.bridge.model.prompt_encoder import PromptFormat
from ablation.config.study import ComputeSettings
from ablation.data import hub
from ablation.provenance.job import Job, run
from ablation.vocabulary.bridge import SPLITS, SWAPPED


def main(job: Job) -> None:
    config, regime = job.config, job.config["regime"]
    models = (job.input.source, job.input.target)
    hardware = ComputeSettings.model_validate(config["hardware"])
    folders = [hub.model_folder(model, job.inputs[model]) for model in models]
    pair = load_pair(folders, hardware, PromptFormat(**config["words"]))
    if config["direction"] == SWAPPED:
        pair = pair.swapped()
    questions = Path(job.input.questions).parent
    meter = SectionMeter(f"{regime} {config['direction']}")
    write_activations(pair, questions, regime, ReadOptions(**config["options"]), job.home, meter)
    test, limits = read_questions(questions, regime, "test"), AnswerLimits(**config["answers"])
    named = {"regime": regime, "direction": config["direction"]}
    rows = unbridged_rows(pair, test, config["budgets"], limits, meter, **named)
    job.record["sections"] = meter.sections
    write_samples(job.output.samples, rows)
    outputs = [*(job.home / split for split in SPLITS), job.output.samples]
    job.write_manifest(sorted(map(str, outputs)), **named, **memory_facts(pair))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
