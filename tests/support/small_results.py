"""A small finished study: real manifests, sample rows and tables, but no model, no Snakemake."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ablation.analysis.conditions import per_task_table, read_conditions
from ablation.analysis.recovery import CONTRAST_COLUMNS, study_tables, table
from ablation.analysis.recovery_columns import RecoverySettings
from ablation.data.generation.exact_match import reference
from ablation.data.generation.rows import ROWS, TEXTS
from ablation.provenance.files import (
    canonical_json,
    sha256_text,
    write_json,
    write_json_lines,
    write_text,
)
from ablation.provenance.manifests import write_manifest
from ablation.vocabulary.generation import ABLATED_GENERATION_MASKS, GENERATION_MASKS
from ablation.vocabulary.masks import ABLATED_MASKS, CAUSAL, LEAKING_MASKS, MASKS
from ablation.vocabulary.recipes import train_mask_of

STUDY = "small"
HOME = f"results/{STUDY}"
SEEDS, RECIPES, TASKS, ITEMS = (1, 2), ("3A", "3B"), ("a", "b"), 40
RULES = {
    "filters": {
        "number": [
            {"function": "regex", "regex_pattern": "([0-9,]+)"},
            {"function": "take_first"},
        ]
    },
    "exact_match": {"regexes_to_ignore": [","]},
}
CONFIG = {
    "study": STUDY,
    "metric": "acc",
    "statistics": {"confidence": 0.95},
    "criteria": {"retention": 0.8, "gain": 0.05},
}

_TEMPLATES: dict[str, tempfile.TemporaryDirectory] = {}  # {arguments of `make`: what it wrote}


def make(root: Path, *, write_model: Callable[[Path], object] | None = None, **arguments) -> None:
    """Write the study below `root`, which must be the working directory; `write` has the arguments.

    Of equal arguments it is written once, and then copied.
    """
    assert root.samefile(".")
    if write_model:
        return write(write_model=write_model, **arguments)
    key = canonical_json(arguments)
    if key not in _TEMPLATES:
        _TEMPLATES[key] = tempfile.TemporaryDirectory()
        with contextlib.chdir(_TEMPLATES[key].name):
            write(**arguments)
    shutil.copytree(_TEMPLATES[key].name, root, dirs_exist_ok=True)


def write(
    attempt: str = "run-1",
    learned: float = 0.8,
    recipes: Sequence[str] = RECIPES,
    write_model: Callable[[Path], object] | None = None,
    base: Mapping | None = None,
    scoring: Mapping | None = None,
    generation: bool = False,
) -> None:
    """Write the study below the working directory.

    `learned` is how often 3B is right under an ablated mask; a recipe with `leaky` in its name has
    trained under a leaking one. write_model: fills the folder of a checkpoint (default: bytes that
    are no model). base: facts of the base's manifest. scoring: the configuration of scoring jobs.
    generation: whether models also generate the texts of a task.
    """
    scoring = scoring or {}
    write_json_lines(f"{HOME}/base/items/a.jsonl", [{"query": "q"}])
    manifest("base/items/manifest.json", "base_items", {}, ["base/items/a.jsonl"])
    Path(f"{HOME}/base/weights.json").write_text("{}")
    outputs = ["base/weights.json"]
    manifest("base/manifest.json", "base", {"base": "x"}, outputs, **(base or {}))
    scored = ["base/items/manifest.json", "base/manifest.json"]
    paths = [_scored("stage1_baseline", "stage1_baseline", scored, CAUSAL, 0.95, scoring)]
    paths += [
        _scored(f"stage2_ablation/{m}", "stage2_ablation", scored, m, 0.5, scoring)
        for m in ABLATED_MASKS
    ]
    if generation:
        paths.append(_generated("stage1_baseline", "stage1", scored, CAUSAL, 0.9))
        for mask in ABLATED_GENERATION_MASKS:
            paths.append(_generated(f"stage2_ablation/{mask}", "stage2", scored, mask, 0.3))
    for recipe in recipes:
        leaks = "leaky" in recipe
        for seed in SEEDS:
            name = f"{recipe}/seed{seed}"
            home = Path(f"{HOME}/stage3_finetune/{name}")
            (home / "model").mkdir(parents=True)
            if write_model:
                write_model(home / "model")
            else:
                weights = f"weights of {name}".encode() * 9
                (home / "model/model.safetensors").write_bytes(weights)
                (home / "model/config.json").write_text("{}")
            checkpoint = f"stage3_finetune/{name}/manifest.json"
            facts = {"recipe": recipe, "seed": seed, "train_leaks": leaks, "model": "model"}
            trained = {"learning_rate": 1e-3}
            if write_model:
                trained["train_mask"] = train_mask_of(recipe)
            config = {"name": recipe, "seed": seed, "recipe": trained}
            manifest(
                checkpoint,
                "stage3_finetune",
                config,
                [f"stage3_finetune/{name}/model"],
                ["base/manifest.json"],
                {"attempt": attempt, "seconds": 10.0, "energy_joules": 500.0},
                **facts,
            )
            facts.pop("model")
            for mask in MASKS:
                rate = 0.9 if mask == CAUSAL else learned if recipe == "3B" else 0.5
                folder = f"stage4_posteval/{name}/{mask}"
                upstream = [checkpoint, "base/items/manifest.json"]
                paths.append(
                    _scored(folder, "stage4_posteval", upstream, mask, rate, scoring, **facts)
                )
                if generation and mask in GENERATION_MASKS:
                    paths.append(_generated(folder, "stage4", upstream, mask, rate, **facts))
    _tables(paths)


def manifest(name, stage, config, outputs, upstream=(), run=None, **facts):
    inputs = {f"{HOME}/{path}": _fingerprint(f"{HOME}/{path}") for path in upstream}
    body = {"stage": stage, "code": sha256_text(stage), "config": config}
    body |= {"packages": {"torch": "2.13.0"}, "upstream": inputs, "schema_version": 1}
    fingerprint = body | {"hash": sha256_text(canonical_json(body))}
    outputs = [f"{HOME}/{path}" for path in outputs]
    write_manifest(f"{HOME}/{name}", fingerprint, outputs, **facts)
    record = {"host": "h", "processor": "p", "seconds": 1.0, "attempt": None} | (run or {})
    ran = f"{HOME}/{name.removesuffix('manifest.json')}run.json"
    write_json(ran, record)
    for output in (*outputs, f"{HOME}/{name}", ran):
        _note(output)


def _fingerprint(path):
    return json.loads(Path(path).read_text())["fingerprint"]["hash"]


def _note(output):
    """Write the metadata that Snakemake keeps of an output."""
    name = urlsafe_b64encode(output.encode()).decode()
    folder = Path(".snakemake/metadata")
    while len(name) > 254:
        folder, name = folder / f"@{name[:254]}", name[254:]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"rule": "r", "params": [output], "starttime": 1.5}))


def _scored(folder, stage, upstream, mask, rate, config, **facts):
    # the same draw for the same condition, whatever else is changed
    rng = np.random.default_rng([ord(c) for c in folder])
    rows = []
    for task in TASKS:
        for item in range(ITEMS):
            right = rng.random() < rate
            for choice in (0, 1):
                score = -1.0 if (choice == 0) == right else -2.0
                rows.append(
                    {
                        "task": task,
                        "doc_id": item,
                        "doc_hash": f"{task}{item}",
                        "choice": choice,
                        "gold": 0,
                        "loglikelihood": score,
                        "loglikelihood_float32": score,
                        "tokens": 1,
                        "characters": 1,
                        "bytes": 1,
                        "cluster": f"{task}{item}",
                        "truncated": False,
                    }
                )
    Path(f"{HOME}/{folder}").mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(f"{HOME}/{folder}/samples.parquet", index=False)
    write_json(f"{HOME}/{folder}/evaluation.json", {"mask": mask, "lm_eval": {}})
    facts |= {"mask": mask, "eval_leaks": mask in LEAKING_MASKS}
    outputs = [f"{folder}/samples.parquet", f"{folder}/evaluation.json"]
    circumstances = {"device": "cpu", "dtype": "float32"}
    path = f"{folder}/manifest.json"
    manifest(path, stage, config, outputs, upstream, circumstances=circumstances, **facts)
    return path


def _generated(folder, stage, upstream, mask, rate, **facts):
    """Texts `I say <number>.`, of which a filter takes the number; every right answer is 1,000."""
    rng, home = np.random.default_rng([ord(c) for c in folder]), f"{folder}/generated"
    rows, texts = [], []
    for item in range(ITEMS):
        said = "1,000" if rng.random() < rate else "7"
        key = {"task": "gsm", "doc_id": item, "filter": "number"}
        text = f"I say {said}."
        rows.append(
            {
                **key,
                "doc_hash": f"gsm{item}",
                "exact_match": said == "1,000",
                "references": reference("1000", RULES["exact_match"]),
                "text_sha256": sha256_text(text),
                "cluster": f"gsm{item}",
                "truncated": False,
            }
        )
        texts.append({**key, "text": text, "answer": said})
    Path(f"{HOME}/{home}").mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(f"{HOME}/{home}/{ROWS}", index=False)
    pd.DataFrame(texts).to_parquet(f"{HOME}/{home}/{TEXTS}", index=False)
    share = float(np.mean([row["exact_match"] for row in rows]))
    found = {"lm_eval": {"gsm": {"exact_match,number": share}}, "rules": {"gsm": RULES}}
    write_json(f"{HOME}/{home}/evaluation.json", {"mask": mask, **found})
    facts |= {"mask": mask, "eval_leaks": False}
    facts["circumstances"] = {"device": "cpu", "dtype": "float32"}
    outputs = [f"{home}/{name}" for name in (ROWS, TEXTS, "evaluation.json")]
    manifest(f"{home}/manifest.json", f"{stage}_generation", {}, outputs, upstream, **facts)
    return f"{home}/manifest.json"


def _tables(paths):
    manifests = {f"{HOME}/{path}": json.loads(Path(f"{HOME}/{path}").read_text()) for path in paths}
    conditions = read_conditions(manifests)
    recovery, contrasts = study_tables(conditions, RecoverySettings.model_validate(CONFIG))
    frames = {
        "recovery.csv": table(recovery),
        "contrasts.csv": table(contrasts, CONTRAST_COLUMNS),
        "per_task.csv": per_task_table(STUDY, conditions, "acc", 0.95),
    }
    for name, frame in frames.items():
        write_text(f"{HOME}/{name}", frame.to_csv(index=False))
    manifest("recovery.manifest.json", "recovery", CONFIG, list(frames), paths)
    Path("results/recovery.csv").write_bytes(Path(f"{HOME}/recovery.csv").read_bytes())
    _note("results/recovery.csv")
