"""Write the manifest of a model: every file of the base, source or target with its hash.

The base of the first study is also compared with its stock forward, on a copy of few layers.
"""

import json
import os
from pathlib import Path

from ablation.data import hub
from ablation.provenance.job import Job, run
from ablation.provenance.manifests import verify_outputs


def main(job: Job) -> None:
    model, revision = job.config["base"], job.config.get("revision")
    if revision:  # A machine that needs the weights downloads them.
        facts = hub.describe_model(model, revision)
        job.write_manifest([], **facts, **compared(job, facts))
        return
    record = Path(job.input.record)
    if record.name == "manifest.json":  # The model was made here: its files must be as recorded.
        verify_outputs(record, json.loads(record.read_text("utf-8")))
    facts = {"model": os.path.relpath(model, job.home)}
    job.write_manifest([model], **facts, **compared(job, facts))


def compared(job: Job, facts: dict) -> dict:
    """The verdict on the base; the differences are in the run record."""
    if job.fingerprint["stage"] != "base":  # the bridge reads with stock forwards
        return {}
    from ablation.model.reduced import base_agreement

    folder = hub.model_folder(job.output.manifest, facts, weights=False)
    verdict, agreement = base_agreement(folder)
    job.record["stock_agreement"] = agreement.as_dict() if agreement else verdict
    return {"stock_agreement": verdict}


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
