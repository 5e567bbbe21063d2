"""What every export to lm-eval's files shares: the names of models, and results_DATE.json.

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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablation.data.lm_eval_samples import NO_LEAK
from ablation.data.task_files import project_task_files
from ablation.provenance.atomic import atomic_path
from ablation.provenance.files import sha256_file, sha256_text, write_text
from ablation.provenance.run_records import read_run_record, run_record_path
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import PUBLISHED_PROTOCOL

FACTS = "evaluation.json"
FACTS_OF_TASKS = ("versions", "n-shot", "n-samples")  # in it, under lm-eval's names
MODEL_CLASS = "MaskedLM"  # as lm-eval names a model that is given to it as an object


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
    def config(self) -> Mapping[str, Any]:
        """The part of the configuration that the job depended on."""
        return self.manifest["fingerprint"]["config"]

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


def refuse_other_facts(
    path: Path, facts: Mapping[str, Any], rows: str, tasks: set[str], keys: Sequence[str]
) -> None:
    """Raise CannotExport unless evaluation.json has all that lm-eval reports, of all tasks.

    rows: the name of the file of rows that the tasks are in.
    """
    for key in keys:
        found = facts.get(key)
        if not isinstance(found, dict) or not tasks <= set(found):
            raise CannotExport(
                f"{path.with_name(FACTS)} has no `{key}` of every task in {rows}, which "
                "lm-eval's files need. Score the condition again."
            )
    if bad := [task for task in tasks if not re.fullmatch(r"[\w.+-]{1,120}", task)]:
        raise CannotExport(f"{path}: the task {bad[0]!r} has a name that no file may have")


class Files:
    """The files of one condition, in the folder of its model.

    date: for their names, of a job whose run record is not here.
    """

    def __init__(self, out: Path, scored: Scored, date: str) -> None:
        self.scored, self.run = scored, {}
        with suppress(OSError):
            self.run = read_run_record(run_record_path(scored.path))
        self.folder, self.date = out / sanitized(scored.name), _date_id(self.run) or date
        self.folder.mkdir(parents=True, exist_ok=True)

    def write_samples(self, task: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write the lines of a task."""
        with (
            atomic_path(self.folder / f"samples_{task}_{self.date}.jsonl") as scratch,
            open(scratch, "w", encoding="utf-8", newline="\n") as file,
        ):
            file.writelines(_json(line) + "\n" for line in lines)

    def write_results(
        self,
        results: Mapping[str, dict[str, Any]],
        configs: Mapping[str, dict[str, Any]],
        metrics: Mapping[str, Sequence[str]],
        facts: Mapping[str, Any],
        rows: str,
    ) -> Path:
        """Write the results of all tasks; returns the folder.

        facts: the content of evaluation.json, with `task_hashes`. rows: the file of rows.
        """
        content = _results(self.scored, results, configs, metrics, facts, self.run, rows)
        write_text(self.folder / f"results_{self.date}.json", _json(content, indent=2) + "\n")
        return self.folder


def sanitized(name: str) -> str:
    """The folder of a model. Source: `sanitize_model_name` of lm-eval 0.4.13."""
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name)


def _date_id(run: Mapping[str, Any]) -> str:
    """The start of the job, in the form of lm-eval's file names, in UTC; "" if it is unknown."""
    if not isinstance(date := run.get("date"), int | float):
        return ""
    started = datetime.datetime.fromtimestamp(date, datetime.UTC).replace(tzinfo=None)
    return started.isoformat(timespec="microseconds").replace(":", "-")


def _json(value: object, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain, **options)


def _plain(value: Any) -> Any:
    """Values that JSON has no form for, as lm-eval writes them."""
    if isinstance(value, np.generic):
        return value.item()
    return sorted(value) if isinstance(value, set) else str(value)


def aggregated(
    task: str, alias: str, right: Mapping[tuple[str, str], np.ndarray]
) -> dict[str, Any]:
    """The entry of a task in `results`, with the standard errors of lm-eval's `mean_stderr`.

    right: {(metric, filter): the value of each item}.
    """
    found: dict[str, Any] = {"name": task, "alias": alias}
    found["sample_len"] = len(next(iter(right.values())))
    for (name, chosen), values in right.items():
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else "N/A"
        found |= {f"{name},{chosen}": float(values.mean()), f"{name}_stderr,{chosen}": error}
    return found


def _results(
    scored: Scored,
    results: Mapping[str, dict[str, Any]],
    configs: Mapping[str, dict[str, Any]],
    metrics: Mapping[str, Sequence[str]],
    facts: Mapping[str, Any],
    run: Mapping[str, Any],
    rows: str,
) -> dict[str, Any]:
    manifest, tasks = scored.manifest, list(results)
    used = manifest.get("circumstances", {})
    facts_of = {key: {task: facts[key][task] for task in sorted(tasks)} for key in FACTS_OF_TASKS}
    about = {
        "study": scored.study,
        "recipe": manifest.get("recipe"),
        "seed": manifest.get("seed"),
        "mask": manifest["mask"],
        "protocol": scored.protocol,
        "leaks": scored.leaks,
    }
    hashes = {task: facts["task_hashes"][task] for task in tasks}
    evaluation = scored.config.get("evaluation", {})
    return {
        "results": results,
        "group_subtasks": {},
        "configs": configs,
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
            "limit": evaluation.get("limit"),
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
        "fewshot_as_multiturn": bool(evaluation.get("chat_template")),
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
            "samples_sha256": manifest["outputs"][rows]["sha256"],
        },
    }


def _environment(used: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    facts = {key: run.get(key) for key in ("platform", "processor", "python", "driver")}
    facts |= used
    return "\n".join(f"{key}: {value}" for key, value in facts.items() if value is not None)


def task_config(
    task: str,
    metrics: Sequence[str],
    facts: Mapping[str, Any],
    config: Mapping[str, Any],
    task_folder: Path,
    output_type: str = "multiple_choice",
) -> dict[str, Any]:
    """The configuration of a task; of one of the project's own, what its file says.

    The file must still be the one that was scored.
    """
    hashes = config.get("task_files", {})
    found: dict[str, Any] = {"task": task, "output_type": output_type}
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
