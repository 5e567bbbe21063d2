"""Computes every table of the second study from the folders that its jobs wrote. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ablation.bridge.analysis import costs, tables
from ablation.bridge.analysis.claims import claims_table
from ablation.bridge.analysis.freeze import freeze_table
from ablation.bridge.analysis.samples import Samples
from ablation.config.bridge_blocks import Claims, Freeze, Recipe
from ablation.data.json_lines import read_json_lines
from ablation.vocabulary.bridge import ARMS, FORWARD

COSTS = "inference_per_sample.jsonl"


def study_tables(
    homes: Mapping[Path, Mapping],
    study: str,
    confidence: float,
    claims: Claims,
    recipes: Mapping[str, Recipe],
    seeds: Sequence[int],
    freeze: Freeze | None,
    rehearsal: bool,
) -> dict[str, pd.DataFrame]:
    """{name: table}.

    `homes` are the folders of cached activations, cells and inference, with their manifests.
    `seeds` are those of all recipes. In a `rehearsal` no run tests a bridge and no claim is
    decided.
    """
    cells: list[pd.DataFrame] = []
    alone: list[pd.DataFrame] = []
    curves: list[dict] = []
    summary: dict[str, dict] = {}
    measured: dict[str, list[dict]] = {}
    facts: dict[str, Mapping] = {}
    for home, manifest in homes.items():
        if (home / COSTS).is_file():
            measured[home.name] = read_json_lines(home / COSTS)
            continue
        rows = pd.read_parquet(home / "samples.parquet")
        if "direction" in manifest:
            alone.append(rows)
            if manifest["direction"] == FORWARD:
                facts[manifest["regime"]] = manifest
            continue
        cells.append(rows)
        curves += read_json_lines(home / "curve.jsonl")
        own = json.loads((home / "summary.json").read_text("utf-8"))
        summary |= {f"{manifest['regime']}/{manifest['seed']}/{n}": cell for n, cell in own.items()}
    samples = Samples(
        pd.concat(cells, ignore_index=True),
        pd.concat(alone, ignore_index=True),
        pd.DataFrame.from_dict(summary, orient="index"),
        seeds,
    )
    bytes_a_token = {
        regime: (fact["target_kv_bytes_a_token"], fact["source_kv_bytes_a_token"])
        for regime, fact in facts.items()
    }
    widths = {regime: fact["target_width"] for regime, fact in facts.items()}
    flat = costs.flatten(measured, ARMS)
    named = (study, confidence)
    frozen = freeze_table(samples, freeze, claims, *named)
    found = {
        "runs": tables.runs_table(samples, *named),
        "effects": tables.effects_table(samples, claims, *named),
        "controls": tables.controls_table(samples, claims, *named),
        "compression": tables.compression_table(samples, claims, bytes_a_token, *named),
        "messages": tables.messages_table(samples, claims, widths, *named),
        "audit": tables.audit_table(samples, *named),
        "plan": tables.plan_table(samples, recipes, study),
        "inference": costs.inference_table(flat, study),
        "latency_by_length": costs.latency_table(flat, study),
        "freeze": frozen,
        "claims": claims_table(samples, flat, claims, frozen, *named),
        "curves": pd.DataFrame(curves).assign(study=study),
    }
    if rehearsal:
        found["runs"]["tests_a_bridge"] = "false: a rehearsal, accuracies mean nothing"
        found["claims"]["verdict"] = "none: a rehearsal"
    return found
