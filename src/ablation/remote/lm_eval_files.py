"""Writes a study's sample rows as lm-eval's files: results_DATE.json, samples_TASK_DATE.jsonl.

`ablation.remote.lm_eval_output` has what exports share, `lm_eval_generations` what models wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.analysis.metrics import accuracies, check_against_lm_eval, correct_by_metric
from ablation.data.generation.rows import ROWS
from ablation.data.lm_eval_samples import UNFILTERED, ItemText
from ablation.provenance.files import sha256_text
from ablation.provenance.manifests import load_manifest, verify_outputs
from ablation.remote.lm_eval_output import (
    FACTS,
    FACTS_OF_TASKS,
    CannotExport,
    Files,
    Scored,
    aggregated,
    refuse_other_facts,
    task_config,
)
from ablation.vocabulary.metrics import METRIC
from ablation.vocabulary.protocols import (
    LM_EVAL_PROTOCOL,
    PUBLISHED_METRIC,
    PUBLISHED_PROTOCOL,
    protocol_of,
)

# {task: {doc_id: texts}}, without the tasks whose texts are not here.
TextsOf = Callable[[Mapping[str, Any], pd.DataFrame], Mapping[str, Mapping[int, ItemText]]]
SAMPLES = "samples.parquet"
UNKNOWN_DATE = "1970-01-01T00-00-00"


def scored_conditions(
    home: Path, recipes: Sequence[str] = (), masks: Sequence[str] = ()
) -> list[Path]:
    """The manifests of the scored conditions of a study, in the order of their paths.

    Those of generated texts, which are in a folder of their own, are among them.

    recipes, masks: which ones; all if empty. `base` is the base. Raises CannotExport if there are
    none, and StaleInput for an edited manifest.
    """
    found = {
        file.with_name("manifest.json") for rows in (SAMPLES, ROWS) for file in home.rglob(rows)
    }
    chosen: dict[tuple[str, bool], Path] = {}
    names = set()
    for path in sorted(found):
        manifest = load_manifest(path)
        name, mask = str(manifest.get("recipe") or "base"), str(manifest.get("mask"))
        names.add(f"{name} under {mask}")
        if (not recipes or name in recipes) and (not masks or mask in masks):
            model = Scored(home.name, path, manifest, LM_EVAL_PROTOCOL).name
            if (other := chosen.setdefault((model, ROWS in manifest["outputs"]), path)) != path:
                raise CannotExport(f"{other} and {path} both belong to {model}: one was expected")
    if not chosen:
        raise CannotExport(
            f"{home} has no such scored conditions. It has: {', '.join(sorted(names)) or 'none'}"
        )
    return list(chosen.values())


def write_condition(
    study: str, path: Path, out: Path, texts_of: TextsOf, task_folder: Path
) -> tuple[list[Path], set[str]]:
    """Write the files of one condition, a folder in `out` for each protocol.

    texts_of: the texts of the items, from the manifest and the items of its sample rows.
    task_folder: the folder of the configuration, with the project's own task files.

    Returns the folders, and the tasks whose texts are not here. Raises StaleInput if the sample
    rows are not as they were made, MetricsDisagree if they do not give lm-eval's own accuracies,
    and CannotExport.
    """
    manifest = load_manifest(path)
    verify_outputs(path, manifest, {SAMPLES, FACTS})
    rows = pd.read_parquet(path.with_name(SAMPLES))
    facts = json.loads(path.with_name(FACTS).read_text("utf-8"))
    refuse_other_facts(path, facts, SAMPLES, set(rows.task), (*FACTS_OF_TASKS, "task_hashes"))
    rows = rows.sort_values(["task", "doc_id", "choice"], kind="stable")
    check_against_lm_eval(accuracies(correct_by_metric(rows), {}), facts)
    texts = texts_of(manifest, rows[rows.choice == 0])
    folders = []
    for protocol in (LM_EVAL_PROTOCOL, PUBLISHED_PROTOCOL):
        tasks = [task for task in sorted(set(rows.task)) if protocol_of(task) == protocol]
        if tasks:
            scored = Scored(study, path, manifest, protocol)
            folders.append(_write(scored, tasks, rows, facts, texts, out, task_folder))
    return folders, set(rows.task) - set(texts)


def _write(
    scored: Scored,
    tasks: Sequence[str],
    rows: pd.DataFrame,
    facts: Mapping[str, Any],
    texts: Mapping[str, Mapping[int, ItemText]],
    out: Path,
    task_folder: Path,
) -> Path:
    files = Files(out, scored, UNKNOWN_DATE)
    results, metrics = {}, {task: metrics_of(task, facts) for task in tasks}
    for task in tasks:
        of_task = rows[rows.task == task]
        right = {name: values[task] for name, values in correct_by_metric(of_task).items()}
        values = {(name, UNFILTERED): right[name].to_numpy(float) for name in metrics[task]}
        results[task] = aggregated(task, scored.alias(task), values)
        files.write_samples(task, _samples(scored, of_task, metrics[task], right, texts.get(task)))
    configs = {
        task: task_config(task, metrics[task], facts, scored.config, task_folder)
        for task in sorted(tasks)
    }
    return files.write_results(results, configs, metrics, facts, SAMPLES)


# ---- samples --------------------------------------------------------------------------------


def metrics_of(task: str, facts: Mapping[str, Any]) -> list[str]:
    """The metrics of a task that lm-eval computed, and that of its protocol."""
    found = [name for name in facts["lm_eval"].get(task, ()) if name in METRIC] or ["acc"]
    return [*found, *([PUBLISHED_METRIC] if protocol_of(task) == PUBLISHED_PROTOCOL else [])]


def _samples(
    scored: Scored,
    rows: pd.DataFrame,
    metrics: Sequence[str],
    right: Mapping[str, pd.Series],
    texts: Mapping[int, ItemText] | None,
) -> Iterator[dict[str, Any]]:
    """One line an item, as lm-eval writes them; all responses are texts there.

    Without texts `doc` is empty, the arguments have no texts, and the target is the index of the
    right choice, if that is what its hash is of.
    """
    values = {name: right[name].to_numpy(float) for name in metrics}
    every_row: Iterator[Any] = rows.itertuples(index=False)
    items = groupby(every_row, lambda row: int(row.doc_id))
    for index, (doc_id, of_item) in enumerate(items):
        choices = list(of_item)
        first = choices[0]
        scores = [(str(float(row.loglikelihood)), str(bool(row.is_greedy))) for row in choices]
        text = _no_text(first, len(scores)) if texts is None else texts[doc_id]
        yield {
            "doc_id": doc_id,
            "doc": text.doc,
            "target": text.target,
            "arguments": {
                f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(parts)}
                for i, parts in enumerate(text.arguments)
            },
            "resps": [[score] for score in scores],
            "filtered_resps": scores,
            "filter": UNFILTERED,
            "metrics": list(metrics),
            "doc_hash": first.doc_hash,
            "prompt_hash": first.prompt_hash,
            "target_hash": first.target_hash,
            **{name: float(values[name][index]) for name in metrics},
            "cluster": first.cluster,
            "condition": scored.name,
            "leaks": scored.leaks,
        }


def _no_text(first: Any, choices: int) -> ItemText:
    gold = str(first.gold)
    target = gold if sha256_text(gold) == first.target_hash else ""
    return ItemText({}, target, [("", "")] * choices)
