"""Gather the loss curves of every recipe and seed in one table."""

import json
from pathlib import Path

from ablation import provenance
from ablation.curves import curves_table
from ablation.machine import run_record
from ablation.progress import logged


def main(smk):
    stamp, runs = json.loads(smk.params.stamp), []
    manifests = provenance.read_inputs(stamp, only=("summary.json", "curve.jsonl"))
    for home, manifest in ((Path(path).parent, m) for path, m in manifests.items()):
        summary = json.loads((home / "summary.json").read_text())
        curve = provenance.read_json_lines(home / "curve.jsonl")
        run = home / "run.json"  # no input, but the one place that knows of kills: absent, no marks
        happened = json.loads(run.read_text()) if run.is_file() else {}
        runs.append((manifest["recipe"], summary, curve, happened.get("resumes", [])))
    table = curves_table(stamp["config"]["study"], runs)
    provenance.write_text(smk.output.table, table.to_csv(index=False))
    provenance.write_manifest(smk.output.manifest, stamp, outputs=[Path(smk.output.table)])


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
