"""Write the logged losses of every finetuning into one table."""

import json
from pathlib import Path

from ablation.analysis.curves import curves_table
from ablation.data.json_lines import read_json_lines
from ablation.provenance.job import Job, run

READ = ("summary.json", "curve.jsonl", "run.json")


def main(job: Job) -> None:
    runs = []
    for home, manifest in ((Path(path).parent, m) for path, m in job.inputs.items()):
        summary = json.loads((home / "summary.json").read_text("utf-8"))
        record = home / "run.json"  # only it has the resumes; it is no input and may be missing
        happened = json.loads(record.read_text("utf-8")) if record.is_file() else {}
        curve, resumes = read_json_lines(home / "curve.jsonl"), happened.get("resumes", [])
        runs.append((manifest["recipe"], summary, curve, resumes))
    table = curves_table(job.config["study"], runs)
    job.write_table(job.output.table, table)
    job.write_manifest([job.output.table])


if __name__ == "__main__":
    run(main, snakemake, only=READ)  # noqa: F821
