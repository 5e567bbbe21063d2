"""Promises of the bridge's rules, on a study of seconds whose numbers mean nothing."""

import json

import pandas as pd
import pytest
import yaml
from conftest import Checkout, copy_of_the_repository

from ablation.cli.main import main
from ablation.lineage.trace import trace

pytestmark = [pytest.mark.study, pytest.mark.long]

OFF = {"kl": 0.0, "info_nce": 0.0, "prompt_alignment": 0.0}
TINY = {
    "extends": "bridge.yaml",
    "study": "tiny",
    "bridge": {
        "seeds": [1],
        "freeze": {
            "seeds": [1, 2],
            "cells": {"compression": {"soft_tokens": 8}},
        },
        "questions": {"train": 64, "train_contexts": 64, "dev": 20, "test": 40},
        "training": {"max_steps": 8, "warmup_steps": 2, "log_steps": 2, "save_steps": 4}
        | {"eval_steps": 4, "eval_samples": 20, "batch_examples": 16, "micro_batch_examples": 16}
        | {"stops": {"plateau": None}},
        "recipes": {
            "all_fixes": {"soft_tokens": [2, 8], "controls": True},
            "source_free": {"soft_tokens": [2, 8], "translator": {"kind": "source_free"}},
            "no_fixes": {"audit": True, "eos": False, "weights": OFF},
            "diffusion": {"regimes": ["compression"], "translator": {"kind": "diffusion"}}
            | {"noise_seeds": 2},
            "swapped": {"regimes": ["enrichment"], "swapped": True},
            "longer": {"regimes": ["query_agnostic"], "soft_tokens": [4], "controls": True},
        },
        "inference": {"samples": 4, "warm_up": 1},
        "claims": {"context_soft_tokens": 4},
    },
}
OPTIONS = ("--configfile", "tiny.yaml")
DRAWN = {"bridge_tables", "bridge_figures", "bridge_pages", "runs", "all"}


def written(checkout, **over):
    bridge = TINY["bridge"] | over
    (checkout.folder / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"bridge": bridge}))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    checkout = Checkout(copy_of_the_repository(tmp_path_factory.mktemp("tiny")), preloaded=True)
    written(checkout)
    checkout.run(*OPTIONS)
    return checkout


@pytest.fixture(scope="module")
def home(tiny):
    return tiny.folder / "results/tiny/bridge"


def test_every_table_figure_and_page_is_there_and_asking_again_runs_nothing(tiny, home):
    empty = {"published", "published_repeats"}
    for file in home.glob("*.csv"):
        table = pd.read_csv(file)
        assert len(table) and (file.stem in empty or set(table.study) == {"tiny"}), file
    names = {file.stem for file in home.glob("*.csv")}
    assert {"runs", "compression", "messages", "inference", "claims", "plan"} <= names
    frozen = pd.read_csv(home / "freeze.csv")
    assert frozen.groupby("regime").seed.agg(list).to_dict() == dict.fromkeys(
        ("compression", "enrichment"), [1, 2]
    )
    assert len(list(home.glob("figures/*.svg"))) == 3
    assert len(list(home.glob("report/*.html"))) == 9
    assert tiny.stale("all", options=OPTIONS) == set()


def test_identity_and_cache_hold_for_any_bridge_however_badly_trained(home):
    controls = pd.read_csv(home / "controls.csv").query("control == 'identity'")
    assert len(controls) and controls.same_as_target_alone.astype(str).str.lower().eq("true").all()
    costs = pd.read_csv(home / "inference.csv")
    assert costs.kv_as_formula.astype(str).str.lower().eq("true").all()
    lines = (home / "inference/compression/inference_per_sample.jsonl").read_text().splitlines()
    assert len(lines) == 4 and {"latent", "cascade"} <= set(json.loads(lines[0]))


def test_another_threshold_trains_nothing_and_another_weight_trains_all_of_its_cells(tiny):
    written(tiny, claims=TINY["bridge"]["claims"] | {"p": 0.05})
    assert tiny.stale("all", options=OPTIONS) == DRAWN
    weights = {"weights": {"kl": 0.2}}
    written(tiny, training=TINY["bridge"]["training"] | weights)
    assert tiny.stale("all", options=OPTIONS) == DRAWN | {"bridge_cells", "bridge_inference"}
    written(tiny)
    assert tiny.stale("all", options=OPTIONS) == set()


def test_the_report_shows_the_bridge(tiny, home):
    report = tiny.folder / "results/report.html"
    tiny.snakemake(*OPTIONS, "--report", str(report))
    text = report.read_text()
    for title in ("1.1 Claims", "1.4 Controls", "2.1 Accuracy by soft tokens", "4.1 Time"):
        assert title in text
    assert "What came back" not in text


def test_a_plan_says_that_it_does_not_count_the_bridge(tiny):
    written(tiny, training=TINY["bridge"]["training"] | {"weights": {"kl": 0.3}})
    told = tiny.ablation("plan", "all", "--configfile", "tiny.yaml").stdout
    assert "bridge_cells" in told and "NOT COUNTED" in told
    written(tiny)


def test_a_cell_leads_back_to_what_it_is_made_from(home):
    row = {"regime": "compression", "recipe": "all_fixes", "k": "8", "seed": "1"}
    found = trace(home / "runs.csv", row, "accuracy")
    cells = [path for paths in found["conditions"].values() for path in paths if "/cells/" in path]
    assert cells == ["results/tiny/bridge/cells/compression/seed1/manifest.json"]
    assert {"bridge_states", "bridge_questions"} <= {
        n["stage"] for n in found["manifests"].values()
    }


def test_two_bridges_are_compared_by_their_files(home, capsys):
    assert main(["diff", str(home.parent), str(home.parent)]) == 0
    count = len(list(home.parent.rglob("*manifest.json")))
    assert f"{count} of {count} results identical" in capsys.readouterr().out


def test_a_changed_sample_file_is_noticed_by_the_tables(tiny, home):
    file = home / "cells/compression/seed1/samples.parquet"
    before = file.read_bytes()
    try:
        frame = pd.read_parquet(file)
        frame["correct"] = 1
        frame.to_parquet(file, index=False)
        done = tiny.snakemake("--cores", "1", *OPTIONS, check=False)
        assert done.returncode and "samples.parquet has changed" in done.stdout + done.stderr
    finally:
        file.write_bytes(before)
