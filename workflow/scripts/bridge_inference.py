"""Measure what the five arms cost, one question at a time."""

import json
from pathlib import Path

from ablation import hub, machine, provenance
from ablation.bridge import cells
from ablation.bridge.inference import per_sample, spent
from ablation.bridge.pair import load_pair
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    config, inputs = stamp["config"], provenance.read_inputs(stamp)
    folders = [hub.model_folder(m, inputs[m]) for m in (smk.input.source, smk.input.target)]
    asked, recipe = config["inference"], config["recipe"]
    name = f"{asked['recipe']}-k{asked['soft_tokens']}.safetensors"
    with machine.run_record(smk.output.run) as record:
        pair = load_pair(folders, config["hardware"], config["words"])
        translator = cells.load_translator(
            Path(smk.input.cells).parent / "translators" / name, recipe, asked["soft_tokens"], pair
        )
        questions = Path(smk.input.questions).parent
        records = cells.read_questions(questions, config["regime"], "test")[: asked["samples"]]
        warm_up, layer = asked["warm_up"], config["layer"]
        found = per_sample(pair, translator, recipe, layer, records, warm_up)
        record |= {"sections": spent(found)}
    provenance.write_json_lines(smk.output.samples, found)
    provenance.write_manifest(
        smk.output.manifest, stamp, [smk.output.samples], regime=config["regime"]
    )


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
