"""Writes what a study has generated as lm-eval's files, beside those of its scores of choices.

lm-eval writes one line for each filter and item: the text in `resps`, what the filter takes out of
it in `filtered_resps`, and `exact_match`. Names, leaks and results are those of
`ablation.remote.lm_eval_output`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.analysis.generations import KEY, read_generations
from ablation.data.generation.rows import ROWS, TEXTS
from ablation.data.generation.tasks import GENERATION_TYPE
from ablation.data.lm_eval_samples import ItemText
from ablation.provenance.files import sha256_text
from ablation.provenance.manifests import load_manifest, verify_outputs
from ablation.remote.lm_eval_files import TextsOf
from ablation.remote.lm_eval_output import (
    FACTS,
    FACTS_OF_TASKS,
    Files,
    Scored,
    aggregated,
    refuse_other_facts,
    task_config,
)
from ablation.vocabulary.generation import EXACT_MATCH
from ablation.vocabulary.protocols import LM_EVAL_PROTOCOL

# Of the files' names, for texts whose run record is not here: those of choices have another.
UNKNOWN_DATE = "1970-01-01T00-00-01"


def write_generations(
    study: str, path: Path, out: Path, texts_of: TextsOf, task_folder: Path, with_texts: bool
) -> tuple[list[Path], set[str]]:
    """Write the files of the texts of one condition.

    with_texts: whether generated texts are written, if they are here; a model may quote the
    benchmark in them. The other arguments, returned values and errors are those of
    `lm_eval_files.write_condition`.
    """
    manifest = load_manifest(path)
    here = path.with_name(TEXTS).is_file()
    verify_outputs(path, manifest, {ROWS, FACTS, *([TEXTS] if here else [])})
    read_generations(path.parent)  # which judges the texts again
    facts = json.loads(path.with_name(FACTS).read_text("utf-8"))
    rows = pd.read_parquet(path.with_name(ROWS))
    tasks = sorted(set(rows.task))
    refuse_other_facts(path, facts, ROWS, set(tasks), (*FACTS_OF_TASKS, "generation"))
    if here and with_texts:
        rows = rows.merge(pd.read_parquet(path.with_name(TEXTS))[[*KEY, "text", "answer"]], on=KEY)
    else:
        rows = rows.assign(text="", answer="")
    scored = Scored(study, path, manifest, LM_EVAL_PROTOCOL)
    texts = texts_of(manifest, rows.drop_duplicates(["task", "doc_id"]))
    files, metrics = Files(out, scored, UNKNOWN_DATE), {task: [EXACT_MATCH] for task in tasks}
    results, hashes = {}, {}
    for task in tasks:
        filters = rows["filter"][rows.task == task].unique()  # in lm-eval's order
        parts = {name: _of_filter(rows, task, name) for name in filters}
        values = {(EXACT_MATCH, n): part[EXACT_MATCH].to_numpy(float) for n, part in parts.items()}
        results[task] = aggregated(task, scored.alias(task), values)
        ordered = pd.concat(parts.values())
        joined = ordered.doc_hash + ordered.prompt_hash + ordered.target_hash
        hashes[task] = sha256_text("".join(joined))
        settings = facts["generation"][task]
        files.write_samples(task, _lines(scored, ordered, settings, texts.get(task)))
    configs = {
        task: task_config(
            task, metrics[task], facts, scored.config, task_folder, output_type=GENERATION_TYPE
        )
        for task in tasks
    }
    folder = files.write_results(results, configs, metrics, {**facts, "task_hashes": hashes}, ROWS)
    return [folder], set(tasks) - set(texts)


def _of_filter(rows: pd.DataFrame, task: str, name: str) -> pd.DataFrame:
    return rows[(rows.task == task) & (rows["filter"] == name)].sort_values("doc_id")


def _lines(
    scored: Scored,
    rows: pd.DataFrame,
    settings: Mapping[str, Any],
    texts: Mapping[int, ItemText] | None,
) -> Iterator[dict[str, Any]]:
    """One line an item and filter. Without the texts of items, prompts and targets are empty."""
    unknown = ItemText({}, "", [("", dict(settings))])
    for row in rows.to_dict("records"):
        item = unknown if texts is None else texts[int(row["doc_id"])]
        yield {
            "doc_id": int(row["doc_id"]),
            "doc": item.doc,
            "target": item.target,
            "arguments": {
                f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(parts)}
                for i, parts in enumerate(item.arguments)
            },
            "resps": [[row["text"]]],
            "filtered_resps": [row["answer"]],
            "filter": row["filter"],
            "metrics": [EXACT_MATCH],
            "doc_hash": row["doc_hash"],
            "prompt_hash": row["prompt_hash"],
            "target_hash": row["target_hash"],
            EXACT_MATCH: float(row[EXACT_MATCH]),
            "cluster": row["cluster"],
            "condition": scored.name,
            "leaks": scored.leaks,
        }
