"""Train and ask every translator of one regime and seed."""

import json
from pathlib import Path

from ablation import hub, machine, provenance
from ablation.bridge.cells import read_splits, run_cells, write_samples
from ablation.bridge.pair import Answering
from ablation.progress import logged
from ablation.states import claimed


def main(smk):
    stamp = json.loads(smk.params.stamp)
    config, inputs = stamp["config"], provenance.read_inputs(stamp)
    folders = [hub.model_folder(m, inputs[m]) for m in (smk.input.source, smk.input.target)]
    questions, states = Path(smk.input.questions).parent, [Path(f).parent for f in smk.input.states]
    splits = {home.name: read_splits(questions, home, config["regime"]) for home in states}
    with claimed(smk.params.state, keep=smk.config["keep_states"]):
        with machine.run_record(smk.output.run) as record:
            answering = Answering(folders, config["hardware"], config["words"])
            cells = run_cells(answering, splits, config, smk.params.state, smk.output.translators)
            record |= cells.record
        write_samples(smk.output.samples, cells.samples)
        provenance.write_json(smk.output.summary, cells.summary)
        provenance.write_json_lines(smk.output.curve, cells.curve)
        out = smk.output
        outputs = [out.translators, out.samples, out.summary, out.curve]
        facts = {n: config[n] for n in ("regime", "seed")}
        provenance.write_manifest(smk.output.manifest, stamp, outputs, **facts)


if __name__ == "__main__":
    with logged(snakemake.log[0]):  # noqa: F821
        main(snakemake)  # noqa: F821
