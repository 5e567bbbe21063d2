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
        outputs, facts = [], hub.describe_model(model, revision)
    else:
        record = Path(job.input.record)
        if record.name == "manifest.json":  # The model was made here: its files are as recorded.
            verify_outputs(record, json.loads(record.read_text("utf-8")))
        outputs, facts = [model], {"model": os.path.relpath(model, job.home)}
    if job.fingerprint["stage"] == "base":  # the bridge reads with stock forwards
        from ablation.model.checks.reduced import base_agreement

        folder = hub.model_folder(job.output.manifest, facts, weights=False)
        verdict, agreement = base_agreement(folder)
        job.record["stock_agreement"] = agreement.as_dict() if agreement else verdict
        facts["stock_agreement"] = verdict
    job.write_manifest(outputs, **facts)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
