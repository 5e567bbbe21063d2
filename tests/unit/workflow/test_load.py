"""Promise: what the workflow adds to Snakemake's configuration is a study still.

Executors and planners load the study from that configuration again.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ablation.config.load import load_study
from ablation.workflow import load
from ablation.workflow.load import StudyWorkflow, start

ROOT = Path(__file__).resolve().parents[3]
SNAKEMAKE = SimpleNamespace(
    storage_settings=SimpleNamespace(default_storage_provider=None), is_main_process=True
)


def own_data(folder):
    records = folder / "records.jsonl"
    records.write_text(json.dumps({"instruction": "say a", "input": "", "output": "a"}) + "\n")
    items = folder / "data/allenai/ai2_arc/ARC-Easy/test-0.parquet"
    items.parent.mkdir(parents=True)
    choices = {"text": ["a", "b"], "label": ["A", "B"]}
    rows = [{"id": "1", "question": "which?", "choices": choices, "answerKey": "A"}]
    pq.write_table(pa.Table.from_pylist(rows), items)
    return {
        "recipes": {"3A": {"train_mask": "causal"}},
        "instructions": {"data": str(records)},
        "evaluation": {"tasks": ["arc_easy"], "data_folder": str(folder / "data")},
    }


@pytest.mark.parametrize("own", [False, True])
def test_the_configuration_of_a_running_workflow_is_the_study_still(own, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = own_data(tmp_path) if own else {}
    expected = load_study(config, "config")
    start(config, ROOT / "workflow", [], SNAKEMAKE)
    assert load_study(config, "config") == expected
    if own:  # jobs read the places of the data
        assert config["instructions"]["data"] == str(tmp_path / "records.jsonl")
        assert config["evaluation"]["data_folder"] == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("hardware", "found"),
    [
        ({"gpu": 1, "scoring_gpus": 4}, 1),
        ({"gpu": 4, "nodes": 2}, 1),
        ({"gpu": 2, "scoring_gpus": 2}, 0),
    ],
)
def test_what_a_message_about_missing_gpus_says_can_be_written(hardware, found, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(load, "gpus_here", lambda device: found)
    config = {"hardware": hardware, "finetune": {"micro_batch_examples": 6}}
    with pytest.raises(SystemExit) as refused:
        StudyWorkflow(config, ROOT, []).check(on_gpus=True)
    written = yaml.safe_load(re.search(r"`(hardware: .*?)`", str(refused.value))[1])
    changed = config | {"hardware": hardware | written["hardware"]}
    StudyWorkflow(changed, ROOT, []).check(on_gpus=True)


@pytest.mark.parametrize(
    ("gpu", "cards", "mps", "hint"),
    [
        (8, 1, False, "gpu=8 on a machine with 1 GPU: "),
        (16, 2, False, "gpu=16 on a machine with 2 GPUs: "),
        (8, 1, True, ""),
        (2, 2, False, ""),
        (8, 0, False, ""),
        (8, None, False, ""),  # AMD's cards
    ],
)
def test_a_run_whose_jobs_share_cards_without_mps_says_so(
    gpu, cards, mps, hint, tmp_path, monkeypatch
):
    pipes = tmp_path / "pipes"
    pipes.mkdir()
    (pipes / "control").touch()  # which is there, too, when MPS has ended
    (pipes / "nvidia-cuda-mps-control.pid").touch() if mps else None
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(pipes))
    monkeypatch.setattr(load, "gpus_here", lambda: cards)
    found = load.hint_of_sharing(gpu)
    assert found.startswith(hint) and bool(found) == bool(hint)
