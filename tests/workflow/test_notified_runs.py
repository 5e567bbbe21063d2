"""Promise: a run of Snakemake tells a webhook how it ended, and no job of it sees the webhook."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))
from tests.support.webhook_server import bodies, webhook

pytestmark = pytest.mark.study

STUDY = """
study: told
instructions: {data: ./records.jsonl}
seeds: [1]
finetune: {batch_examples: 2, micro_batch_examples: 2}
recipes: {3B: {train_mask: prefill_bidir}}
"""
TARGET = "results/told/base/instructions/manifest.json"
RECORD = {"instruction": "Say red.", "output": "red"}


@pytest.fixture
def run(tmp_path):
    """Runs Snakemake in a folder of the user's for the records of the study."""
    (tmp_path / "told.yaml").write_text(STUDY)

    def started(url):
        command = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--cores", "1"]
        command += ["--configfile", "told.yaml", "--", TARGET]
        environment = os.environ | {"ABLATION_WEBHOOK": url}
        environment |= {"PYTHONPATH": str(ROOT / "src")}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return started


def test_a_failure_and_then_a_success_are_told_and_nothing_to_do_is_not(run, tmp_path):
    records = tmp_path / "records.jsonl"
    records.write_text("{}\n" * 20)
    with webhook() as (url, posts):
        failed = run(url)
        records.write_text("".join(json.dumps(RECORD) + "\n" for _ in range(20)))
        done = run(url)
        nothing = run(url)
    assert failed.returncode == 1, failed.stderr
    assert done.returncode == 0 and nothing.returncode == 0, done.stderr + nothing.stderr
    told = bodies(posts)
    assert [(body["event"], body["study"]) for body in told] == [
        ("failed", "told"),
        ("finished", "told"),
    ]
    assert told[0]["failed"] == ["base_instructions"]
    said = "".join(r.stdout + r.stderr for r in (failed, done, nothing))
    written = [f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and not f.is_symlink()]
    assert "secret-path" not in said and not any(b"secret-path" in text for text in written)
