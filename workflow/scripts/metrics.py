"""Compute the accuracies of one checkpoint from its sample rows, mask by mask."""

import json
from pathlib import Path

import pandas as pd

from ablation.analysis.metrics import study_metrics
from ablation.provenance.files import write_json
from ablation.provenance.job import Job, run
from ablation.provenance.manifests import write_manifest
from ablation.provenance.run_records import run_record


def main(job: Job) -> None:
    for home in (Path(manifest).parent for manifest in job.inputs):
        metrics = home / "metrics.json"
        with run_record(home / "metrics.run.json"):
            samples = pd.read_parquet(home / "samples.parquet")
            facts = json.loads((home / "evaluation.json").read_text("utf-8"))
            write_json(metrics, study_metrics(samples, facts))
        write_manifest(home / "metrics.manifest.json", job.fingerprint, [metrics])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
