"""Let the frozen models read every question once: cached states, and the arms alone."""

import json
from pathlib import Path

from ablation import hub, machine, provenance
from ablation.bridge.cells import read_once, target_facts, write_samples
from ablation.bridge.forwards import Meter
from ablation.bridge.pair import load_pair
from ablation.bridge.prompts import SPLITS
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    config, inputs = stamp["config"], provenance.read_inputs(stamp)
    folders = [hub.model_folder(m, inputs[m]) for m in (smk.input.source, smk.input.target)]
    with machine.run_record(smk.output.run) as record:
        pair = load_pair(folders, config["hardware"], config["words"])
        if config["direction"] == "swapped":
            pair = pair.swapped()
        home = Path(smk.output.manifest).parent
        questions = Path(smk.input.questions).parent
        meter = Meter(f"{config['regime']} {config['direction']}")
        rows = read_once(pair, questions, config["regime"], config, home, meter)
        record |= {"sections": meter.sections}
    write_samples(smk.output.samples, rows)
    outputs = [*(home / split for split in SPLITS), smk.output.samples]
    facts = {n: config[n] for n in ("regime", "direction")} | target_facts(pair)
    provenance.write_manifest(smk.output.manifest, stamp, sorted(map(str, outputs)), **facts)


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
