"""Promises: the study of the large models runs from random weights on both data sets, says what its
numbers are worth and what it took; planned without key, network or hub, it is whole."""

import csv
import io
import json
import re

import pandas as pd
import pytest
import yaml
from conftest import Checkout, copy_of_the_repository

from ablation.vocabulary.bridge import ARMS

pytestmark = [pytest.mark.study, pytest.mark.timeout(1200)]

SHAPE = {"width": 32, "feed_forward": 64, "layers": 2, "heads": 4, "head_dim": 8}
TOY = {
    "extends": "rehearsal_bridge7b.yaml",
    "study": "toybridge",
    "hardware": {"gpu": 0, "threads": 1},
    "bridge": {
        "random": {
            "source": SHAPE | {"width": 48, "vocabulary": 8192, "key_value_heads": 4},
            "target": SHAPE | {"vocabulary": 9000, "key_value_heads": 2},
        },
        "data": {
            "gsm8k": {"train": 12, "dev": 3, "test": 5},
            "hotpotqa": {"train": 8, "dev": 2, "test": 4},
            "hotpotqa_query_agnostic": {"train": 8, "dev": 2, "test": 4},
        },
        "training": {
            "max_steps": 2,
            "warmup_steps": 1,
            "batch_examples": 4,
            "micro_batch_examples": 4,
            "save_steps": 2,
            "eval_steps": 2,
            "eval_samples": 3,
            "eval_batch": 3,
            "max_new_tokens": 3,
            "optimizer": "adamw_torch",
            "translator": {"width": 16, "depth": 1, "heads": 2, "steps": 2},
        },
        "recipes": {
            "all_fixes": {"soft_tokens": [8], "controls": True},
            "source_free": {
                "soft_tokens": [8],
                "translator": {"kind": "source_free"},
                "weights": {"info_nce": 0.0, "prompt_alignment": 0.0},
            },
            "no_fixes": {
                "soft_tokens": [8],
                "audit": True,
                "eos": False,
                "weights": {"kl": 0.0, "info_nce": 0.0, "prompt_alignment": 0.0},
            },
            "swapped": {"regimes": ["gsm8k"], "soft_tokens": [8], "swapped": True},
        },
        "inference": {"soft_tokens": 8},
        "claims": {"soft_tokens": 8, "context_soft_tokens": 8},
    },
}
SPLITS = ("train", "dev", "test")
# One rule makes all tables; figures and pages: test_bridge_pipeline.py.
ASKED = ("--configfile", "toy.yaml", "--", "results/toybridge/bridge/claims.csv")
GPU_RULES = {"bridge_states": 4, "bridge_cells": 9, "bridge_inference": 3}
REGIMES = ("gsm8k", "hotpotqa", "hotpotqa_query_agnostic")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Checkout(copy_of_the_repository(tmp_path_factory.mktemp("toybridge")))


@pytest.fixture(scope="module")
def toy(clone):
    (clone.folder / "toy.yaml").write_text(yaml.safe_dump(TOY))
    clone.run(*ASKED)
    return clone


@pytest.mark.e2e
def test_both_data_sets_run_from_random_weights(toy):
    home = toy.folder / "results/toybridge/bridge"
    runs = pd.read_csv(home / "runs.csv")
    assert set(runs.regime) == set(REGIMES) and (runs.steps == 2).all()
    assert set(runs.query("regime == 'gsm8k'").recipe) == set(TOY["bridge"]["recipes"])
    controls = pd.read_csv(home / "controls.csv").query("control == 'identity'")
    assert (controls.same_as_target_alone.astype(str).str.lower() == "true").all()
    costs = pd.read_csv(home / "inference.csv")
    assert set(costs.kv_as_formula.astype(str).str.lower()) == {"true"}
    tokens = pd.read_csv(home / "compression.csv").set_index("regime").text_tokens
    assert 60 < tokens.gsm8k < 250
    assert all(1000 < tokens[regime] < 2000 for regime in REGIMES[1:])


@pytest.mark.e2e
def test_no_weights_stand_on_the_disk_and_states_are_read_once(toy):
    home = toy.folder / "results/toybridge/bridge"
    assert not list((home / "random").rglob("*.safetensors"))
    found = {f.parent.relative_to(home).as_posix() for f in home.rglob("000000.safetensors")}
    wanted = {f"states/gsm8k/{d}/{s}" for d in ("forward", "swapped") for s in SPLITS}
    assert found == wanted | {f"states/{r}/forward/{s}" for r in REGIMES[1:] for s in SPLITS}


@pytest.mark.e2e
def test_its_tables_and_its_folder_say_that_the_numbers_mean_nothing(toy):
    home = toy.folder / "results/toybridge/bridge"
    assert "# toybridge: a rehearsal" in (home / "README.md").read_text()
    assert pd.read_csv(home / "runs.csv").tests_a_bridge.str.contains("mean nothing").all()
    assert (pd.read_csv(home / "claims.csv").verdict == "none: a rehearsal").all()


@pytest.mark.e2e
def test_what_was_read_and_left_out_is_told(toy):
    manifest = toy.folder / "results/toybridge/bridge/questions/manifest.json"
    read = json.loads(manifest.read_text())["read"]
    assert read["gsm8k"]["train"] == {"read": 15, "left_out_repeated": 0, "chosen": 12}
    rows = pd.read_parquet(manifest.parents[1] / "cells/hotpotqa/seed81/samples.parquet")
    assert set(rows.ended) <= {0, 1}


@pytest.mark.e2e
def test_every_arm_and_step_has_its_time(toy):
    told = toy.python("tools/bridge_times.py", "results/toybridge").stdout
    rows = list(csv.DictReader(io.StringIO(told)))
    sections = {(row["job"], row["section"]) for row in rows}
    for arm in ARMS:
        assert ("inference/hotpotqa", arm) in sections
    steps = [row for row in rows if row["section"] == "a training step"]
    assert len(steps) == 10 and all(float(row["seconds_each"]) > 0 for row in steps)
    log = (toy.folder / "logs/toybridge/bridge/cells-gsm8k-81.log").read_text()
    assert re.search(r"gsm8k all_fixes-k8 seed 81: bridged: 5 in [\d.]+ s, [\d.]+ s each", log)


@pytest.mark.e2e
def test_asking_again_runs_nothing(toy):
    done = toy.snakemake("-n", *ASKED)
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.parametrize("profile", ["vast", "slurm", "gpu"])
def test_the_real_study_is_planned_without_key_network_and_hub(clone, profile, monkeypatch):
    for name, value in {"HOME": "/nonexistent", "VAST_API_KEY": ""}.items():
        monkeypatch.setenv(name, value)
    real = ("--configfile", "config/bridge7b.yaml", "--", "bridge")
    done = clone.snakemake("--profile", profile, "-n", *real)
    text = done.stdout + done.stderr
    assert "4 hub repositories have no commit yet" in text
    for rule, count in GPU_RULES.items():
        assert re.search(rf"^{rule} +{count}$", text, re.M), text


def test_the_rules_that_run_models_ask_for_the_study_s_hardware(clone):
    text = (clone.folder / "rules/bridge.smk").read_text()
    for rule in GPU_RULES:
        block = text.split(f"rule {rule}:")[1].split("\nrule ")[0]
        assert "**STUDY.hardware.resources()" in block
        assert "localrule:" not in block


def test_a_real_run_without_commits_is_refused_and_says_what_to_do(clone):
    real = ("--configfile", "config/bridge7b.yaml", "--", "bridge")
    done = clone.snakemake("--cores", "1", *real, check=False)
    assert done.returncode and "ablation pin FILE" in done.stdout + done.stderr
