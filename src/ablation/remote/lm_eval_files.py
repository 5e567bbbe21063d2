"""Writes a study's sample rows as lm-eval's files: results_DATE.json, samples_TASK_DATE.jsonl.

Layout, names and entries are those of EvaluationTracker in lm-eval 0.4.13: a folder for each model,
which here is a condition of one protocol. What lm-eval has no place for is in the name of the
model, in the alias of each task, in `config.model_args`, under the key `ablation`, and in
`condition` and `leaks` of each sample, so that a score under a leaking mask never looks like
another.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablation.analysis.metrics import accuracies, check_against_lm_eval, correct_by_metric
from ablation.data.lm_eval_samples import NO_LEAK, UNFILTERED, ItemText
from ablation.data.task_files import project_task_files
from ablation.provenance.atomic import atomic_path
from ablation.provenance.files import sha256_file, sha256_text, write_text
from ablation.provenance.manifests import load_manifest, verify_outputs
from ablation.provenance.run_records import read_run_record, run_record_path
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.metrics import METRIC
from ablation.vocabulary.protocols import (
    LM_EVAL_PROTOCOL,
    PUBLISHED_METRIC,
    PUBLISHED_PROTOCOL,
    protocol_of,
)

# {task: {doc_id: texts}}, without the tasks whose texts are not here.
TextsOf = Callable[[Mapping[str, Any], pd.DataFrame], Mapping[str, Mapping[int, ItemText]]]
SAMPLES, FACTS = "samples.parquet", "evaluation.json"
MODEL_CLASS = "MaskedLM"  # as lm-eval names a model that is given to it as an object
UNKNOWN_DATE = "1970-01-01T00-00-00"


class CannotExport(ValueError):
    """A study has no such conditions, or names that no file may have."""


@dataclass(frozen=True)
class Scored:
    """One condition on the tasks of one protocol, as its manifest describes it.

    name: of the model in lm-eval's files, `study/model-mask`, with `published` and `LEAKS`.
    """

    study: str
    path: Path
    manifest: Mapping[str, Any]
    protocol: str

    @property
    def leaks(self) -> str:
        """`train`, `eval`, both, or `-`, as in the study's tables.

        Without the result of an audit a leak is assumed; the base was not trained here.
        """
        assumed = {"train": "recipe" in self.manifest, "eval": True}
        kinds = [kind for kind in assumed if self.manifest.get(f"{kind}_leaks", assumed[kind])]
        return " ".join(kinds) or NO_LEAK

    @property
    def name(self) -> str:
        """The name of the model."""
        recipe, seed = (self.manifest.get(key) for key in ("recipe", "seed"))
        parts = ["base" if recipe is None else f"{recipe}-seed{seed}", self.manifest["mask"]]
        parts += [PUBLISHED_PROTOCOL] * (self.protocol == PUBLISHED_PROTOCOL)
        parts += ["LEAKS", *self.leaks.split()] if self.leaks != NO_LEAK else []
        return f"{self.study}/{'-'.join(map(str, parts))}"

    def alias(self, task: str) -> str:
        """The name of a task in lm-eval's tables."""
        mask = self.manifest["mask"]
        if self.leaks != NO_LEAK:
            return f"{task} [LEAKS {self.leaks}, {mask}]"
        return task if mask == CAUSAL else f"{task} [{mask}]"


def scored_conditions(
    home: Path, recipes: Sequence[str] = (), masks: Sequence[str] = ()
) -> list[Path]:
    """The manifests of the scored conditions of a study, in the order of their paths.

    recipes, masks: which ones; all if empty. `base` is the base. Raises CannotExport if there are
    none, and StaleInput for an edited manifest.
    """
    found = {file.with_name("manifest.json") for file in home.rglob(SAMPLES)}
    chosen: dict[str, Path] = {}
    names = set()
    for path in sorted(found):
        manifest = load_manifest(path)
        name, mask = str(manifest.get("recipe") or "base"), str(manifest.get("mask"))
        names.add(f"{name} under {mask}")
        if (not recipes or name in recipes) and (not masks or mask in masks):
            model = Scored(home.name, path, manifest, LM_EVAL_PROTOCOL).name
            if (other := chosen.setdefault(model, path)) != path:
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
    _refuse_other_facts(path, facts, set(rows.task))
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


def _refuse_other_facts(path: Path, facts: Mapping[str, Any], tasks: set[str]) -> None:
    """Raise CannotExport unless evaluation.json has all that lm-eval reports, of all tasks."""
    for key in ("n-samples", "n-shot", "versions", "task_hashes"):
        found = facts.get(key)
        if not isinstance(found, dict) or not tasks <= set(found):
            raise CannotExport(
                f"{path.with_name(FACTS)} has no `{key}` of every task in {SAMPLES}, which "
                "lm-eval's files need. Score the condition again."
            )
    if bad := [task for task in tasks if not re.fullmatch(r"[\w.+-]{1,120}", task)]:
        raise CannotExport(f"{path}: the task {bad[0]!r} has a name that no file may have")


def _write(
    scored: Scored,
    tasks: Sequence[str],
    rows: pd.DataFrame,
    facts: Mapping[str, Any],
    texts: Mapping[str, Mapping[int, ItemText]],
    out: Path,
    task_folder: Path,
) -> Path:
    run: dict[str, Any] = {}
    with suppress(OSError):
        run = read_run_record(run_record_path(scored.path))
    folder, date = out / sanitized(scored.name), _date_id(run)
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for task in tasks:
        of_task = rows[rows.task == task]
        names = metrics_of(task, facts)
        right = {name: values[task] for name, values in correct_by_metric(of_task).items()}
        results[task] = _aggregated(task, scored.alias(task), names, right)
        lines = _samples(scored, of_task, names, right, texts.get(task))
        with (
            atomic_path(folder / f"samples_{task}_{date}.jsonl") as scratch,
            open(scratch, "w", encoding="utf-8", newline="\n") as file,
        ):
            file.writelines(_json(line) + "\n" for line in lines)
    content = _results(scored, results, facts, run, task_folder)
    write_text(folder / f"results_{date}.json", _json(content, indent=2) + "\n")
    return folder


def sanitized(name: str) -> str:
    """The folder of a model. Source: `sanitize_model_name` of lm-eval 0.4.13."""
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name)


def _date_id(run: Mapping[str, Any]) -> str:
    """The start of the job, in the form of lm-eval's file names, in UTC."""
    if not isinstance(date := run.get("date"), int | float):
        return UNKNOWN_DATE
    started = datetime.datetime.fromtimestamp(date, datetime.UTC).replace(tzinfo=None)
    return started.isoformat(timespec="microseconds").replace(":", "-")


def _json(value: object, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain, **options)


def _plain(value: Any) -> Any:
    """Values that JSON has no form for, as lm-eval writes them."""
    if isinstance(value, np.generic):
        return value.item()
    return sorted(value) if isinstance(value, set) else str(value)


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


# ---- results --------------------------------------------------------------------------------


def _aggregated(
    task: str, alias: str, metrics: Sequence[str], right: Mapping[str, pd.Series]
) -> dict[str, Any]:
    """The entry of a task in `results`, with the standard errors of lm-eval's `mean_stderr`."""
    found: dict[str, Any] = {"name": task, "alias": alias, "sample_len": len(right[metrics[0]])}
    for name in metrics:
        values = right[name].to_numpy(float)
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else "N/A"
        found |= {
            f"{name},{UNFILTERED}": float(values.mean()),
            f"{name}_stderr,{UNFILTERED}": error,
        }
    return found


def _results(
    scored: Scored,
    results: Mapping[str, dict[str, Any]],
    facts: Mapping[str, Any],
    run: Mapping[str, Any],
    task_folder: Path,
) -> dict[str, Any]:
    manifest, tasks = scored.manifest, list(results)
    used = manifest.get("circumstances", {})
    metrics = {task: metrics_of(task, facts) for task in tasks}
    facts_of = {
        key: {task: facts[key][task] for task in sorted(tasks)}
        for key in ("versions", "n-shot", "n-samples")
    }
    about = {
        "study": scored.study,
        "recipe": manifest.get("recipe"),
        "seed": manifest.get("seed"),
        "mask": manifest["mask"],
        "protocol": scored.protocol,
        "leaks": scored.leaks,
    }
    hashes = {task: facts["task_hashes"][task] for task in tasks}
    config = manifest["fingerprint"]["config"]
    return {
        "results": results,
        "group_subtasks": {},
        "configs": {
            task: _task_config(task, metrics[task], facts, config, task_folder)
            for task in sorted(tasks)
        },
        **{key: facts_of[key] for key in ("versions", "n-shot")},
        "higher_is_better": {task: dict.fromkeys(metrics[task], True) for task in sorted(tasks)},
        "n-samples": facts_of["n-samples"],
        "config": {
            "model": MODEL_CLASS,
            "model_args": {"pretrained": scored.name, **about},
            "model_dtype": used.get("dtype"),
            "batch_size": None,
            "batch_sizes": [],
            "device": used.get("device"),
            "use_cache": None,
            "limit": config.get("evaluation", {}).get("limit"),
            "bootstrap_iters": 0,
            "gen_kwargs": None,
        },
        "git_hash": run.get("git_hash"),
        "date": run.get("date"),
        "pretty_env_info": _environment(used, run),
        "transformers_version": used.get("transformers"),
        "lm_eval_version": used.get("lm_eval"),
        "upper_git_hash": None,
        "task_hashes": hashes,
        "model_source": MODEL_CLASS,
        "model_name": scored.name,
        "model_name_sanitized": sanitized(scored.name),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": bool(config.get("evaluation", {}).get("chat_template")),
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": str(run.get("seconds", "")),
        "ablation": {
            **about,
            "train_leaks": "train" in scored.leaks.split(),
            "eval_leaks": "eval" in scored.leaks.split(),
            "leak_audit": facts.get("leak_audit"),
            "intervention_audit": facts.get("intervention_audit"),
            "manifest_sha256": sha256_file(scored.path),
            "samples_sha256": manifest["outputs"][SAMPLES]["sha256"],
        },
    }


def _environment(used: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    facts = {key: run.get(key) for key in ("platform", "processor", "python", "driver")}
    facts |= used
    return "\n".join(f"{key}: {value}" for key, value in facts.items() if value is not None)


def _task_config(
    task: str,
    metrics: Sequence[str],
    facts: Mapping[str, Any],
    config: Mapping[str, Any],
    task_folder: Path,
) -> dict[str, Any]:
    """The configuration of a task; of one of the project's own, what its file says.

    The file must still be the one that was scored.
    """
    hashes = config.get("task_files", {})
    found: dict[str, Any] = {"task": task, "output_type": "multiple_choice"}
    for file, content in project_task_files(task_folder).items():
        name = file.relative_to(task_folder / "tasks").as_posix()
        same = hashes.get(name) == sha256_text(file.read_text("utf-8"))
        if file.stem == task and same and isinstance(content, dict):
            found |= content
    return found | {
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics
        ],
        "num_fewshot": facts["n-shot"].get(task, 0),
        "metadata": {"version": facts["versions"].get(task)},
    }
