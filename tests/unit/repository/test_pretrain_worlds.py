"""Promises of benchmarks/pretrain_worlds.py: stacked worlds train as the pipeline's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ablation.config.load import load_study
from ablation.micro_world.pretrain import pretrain
from ablation.micro_world.scenes import World

pytestmark = pytest.mark.skipif(
    os.environ.get("ABLATION_STUDY") != "whole", reason="make test-study: it takes a minute"
)
ROOT = Path(__file__).resolve().parents[3]
SEEDS = (1, 2)
RECIPE = {
    "tokenizer": {"documents": 1000},
    "model": {"layers": 1},
    "warmup_steps": 5,
    "max_steps": 160,
    "cooldown_steps": 10,
    "stop_accuracy": 0.2,  # which untrained models reach by chance on some tasks
    "batch_documents": 4,
    "row_tokens": 160,
    "primer": {"alone_until": 20, "faded_at": 40},
    "check": {"items": 5, "from_step": 50, "every": 50},
    "attempts": 1,
    "threads": 1,
}


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    """The folder in which the script has trained two worlds."""
    folder = tmp_path_factory.mktemp("worlds")
    config = folder / "small.yaml"
    config.write_text(json.dumps({"world": {"pretrain": RECIPE}}))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    for command in (("prepare", config, folder), ("train", folder), ("save", config, folder)):
        arguments = [*map(str, command), *map(str, SEEDS)]
        ran = subprocess.run(
            [sys.executable, "benchmarks/pretrain_worlds.py", *arguments],
            **{"cwd": ROOT, "env": environment, "capture_output": True, "text": True},
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stacked_world_ends_with_the_weights_of_the_pipelines_own_training(
    stacked, seed, tmp_path
):
    block = load_study({"world": {"pretrain": RECIPE}}, ROOT / "config").world
    recipe = block.pretrain.model_copy(update={"seed": seed})
    world = World(seed, block.eval_percent, block.dev_percent)
    alone = pretrain(world, recipe, tmp_path / "base", progress=False)
    summary = json.loads((stacked / str(seed) / "summary.json").read_text())
    same = ("steps", "learned", "dev_accuracy")
    assert [summary[key] for key in same] == [alone[key] for key in same]
    assert summary["final_loss"] == pytest.approx(alone["final_loss"], abs=1e-3)
    expected = load_file(tmp_path / "base" / "model.safetensors")
    found = load_file(stacked / str(seed) / "base" / "model.safetensors")
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # of weights of about 0.5
