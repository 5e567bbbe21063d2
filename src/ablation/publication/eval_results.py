"""The evaluation results of a checkpoint in the hub's format, `.eval_results/*.yaml`.

The hub shows these numbers beside those of other models, without the table around them. So only
scores that mean what a reader will take them for are written: those under the causal mask, which is
how transformers computes the model, without a leak in training, and none of the published protocol,
whose items and metric are its own. The model card has all rows, with their masks and leaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ablation.data.local_files import is_local
from ablation.data.task_files import FILE_BUILDERS, project_task_files
from ablation.lineage.lineage import run_beside
from ablation.provenance.files import sha256_text
from ablation.provenance.manifests import load_manifest
from ablation.publication.checkpoint import Checkpoint
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import LM_EVAL_PROTOCOL, MACROS, protocol_of

FILE = ".eval_results/ablation.yaml"


def eval_results(checkpoint: Checkpoint, rows: pd.DataFrame, config: Path) -> str:
    """The content of FILE, "" without an entry.

    rows: those of the checkpoint in recovery.csv. config: the folder with the files of the tasks,
    which name the data sets; a file that is not the one that was scored with is not used.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = []
    if not (scored := _scored_causally(checkpoint)):
        return ""
    (manifest, date), pins = scored, pins_of(checkpoint.home)
    for _, row in rows[rows["mask"] == CAUSAL].iterrows():
        own_protocol = row.task in MACROS or protocol_of(row.task) != LM_EVAL_PROTOCOL
        if own_protocol or pd.isna(row.after):
            continue
        if source := _data_set(str(row.task), manifest, config):
            data_set, part = source
            entries.append(
                EvalResultEntry(
                    dataset_id=data_set,
                    task_id=part,
                    value=float(row.after),
                    dataset_revision=pins.get(data_set),
                    date=date,
                    notes=_notes(row, checkpoint),
                )
            )
    found = eval_result_entries_to_yaml(entries)
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=1000) if found else ""


def _scored_causally(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], str | None] | None:
    """(manifest, date) of the scores under the causal mask; None if there are none or they leak."""
    stage = checkpoint.path.relative_to(checkpoint.home).parts[0].partition("_")[0]
    below = "stage4_posteval" if stage == "stage3" else "stage5_longrun"
    home = checkpoint.home / below / checkpoint.recipe / f"seed{checkpoint.seed}"
    for path in sorted(home.glob("*/manifest.json")):
        manifest = load_manifest(path)
        # An older manifest without the result of an audit is taken for a leaking one.
        leaks = manifest.get("eval_leaks", True) or manifest.get("train_leaks", True)
        if manifest.get("mask") == CAUSAL and not leaks:
            return manifest, (run_beside(path) or {}).get("started")
    return None


def pins_of(home: Path) -> dict[str, str]:
    """{data set on the hub: its commit} that the items and records of a study were read at."""
    found: dict[str, str] = {}
    for path in sorted((home / "base").glob("*/*manifest.json")):
        pins = load_manifest(path)["fingerprint"]["config"].get("pins") or {}
        found |= {name: commit for name, commit in pins.items() if commit}
    return found


def _data_set(task: str, manifest: Mapping[str, Any], config: Path) -> tuple[str, str] | None:
    """(data set on the hub, its configuration) of a task; None if it has none."""
    hashes = manifest["fingerprint"]["config"].get("task_files") or {}
    for file, content in project_task_files(config).items():
        name = file.relative_to(config / "tasks").as_posix()
        if file.stem != task or not isinstance(content, Mapping):
            continue
        data_set = str(content.get("dataset_path") or "")
        if hashes.get(name) != sha256_text(file.read_text("utf-8")):
            return None
        if data_set in ("", *FILE_BUILDERS) or "/" not in data_set or is_local(data_set, ()):
            return None
        return data_set, str(content.get("dataset_name") or "default")
    return None


def _notes(row: pd.Series, checkpoint: Checkpoint) -> str:
    """What was measured, in one line."""
    table = load_manifest(checkpoint.home / "recovery.manifest.json")
    metric = table["fingerprint"]["config"].get("metric", "accuracy")
    return (
        f"{metric} of lm-eval's task {row.task}, {row.n:.0f} items, under the causal mask; "
        f"trained as {checkpoint.recipe}, seed {checkpoint.seed}"
    )
