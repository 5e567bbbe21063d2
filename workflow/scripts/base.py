"""Write the manifest of a model: every file of the base, source or target with its hash."""

import json
import os
from pathlib import Path

from ablation.data import hub
from ablation.provenance.job import Job, run
from ablation.provenance.manifests import verify_outputs


def main(job: Job) -> None:
    model, revision = job.config["base"], job.config.get("revision")
    if revision:  # A machine that needs the weights downloads them.
        job.write_manifest([], **hub.describe_model(model, revision))
        return
    record = Path(job.input.record)
    if record.name == "manifest.json":  # The model was made here: its files must be as recorded.
        verify_outputs(record, json.loads(record.read_text("utf-8")))
    job.write_manifest([model], model=os.path.relpath(model, job.home))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
