"""A model under a mask on lm_eval tasks: one row per item and choice, and the accuracies they give.

lm_eval makes documents, prompts and requests and computes its own accuracies; `ablation.lm` answers
the requests. Everything kept is in the rows: `metrics.metrics_from_samples` needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate as lm_eval_evaluate
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablation.atomic import atomic_path
from ablation.lm import MaskedLM
from ablation.masks import leak_audit
from ablation.metrics import metrics_from_samples
from ablation.models import circumstances
from ablation.names import macros, protocol_of
from ablation.provenance import sha256_text, write_json

# What a protocol brings beside prompts and tokenization: options of `MaskedLM`, and how many of a
# task's items it has at most.
PROTOCOL_BRINGS = {
    "lm_eval": ({"protocol": "lm_eval"}, None),
    "published": ({"protocol": "published", "logits_dtype": "bfloat16"}, 500),
}
SAMPLE_COLUMNS = {
    "task": "string",
    "doc_id": "int64",
    "doc_hash": "string",  # these three hashes as lm_eval logs them, one value an item
    "prompt_hash": "string",
    "target_hash": "string",
    "choice": "int64",  # index of the choice, in the task's order
    "gold": "int64",  # index of the right choice
    "loglikelihood": "float64",  # nats
    "loglikelihood_float32": "float64",  # the same without rounding to `logits_dtype`
    "is_greedy": "bool",
    "tokens": "int64",  # continuation tokens scored
    "characters": "int64",  # of the choice as lm_eval counts: without the delimiter before it
    "bytes": "int64",
    "truncated": "bool",  # the prompt lost tokens from the left
    "mask": "string",
    "checkpoint": "string",  # the folder of the scored model's manifest
}


class Evaluation(NamedTuple):
    """What `evaluate` returns.

    metrics: {mask, leak_audit: as `masks.LeakAudit`, tasks: as `metrics.accuracies`}, and what
        lm_eval says of the tasks, under its own names (LM_EVAL_KEYS, task_hashes).
    samples: one row per item and choice, with `SAMPLE_COLUMNS`.
    circumstances: as `models.circumstances`, and the rows scored in: fewer tokens when memory was
        short.
    """

    metrics: dict[str, Any]
    samples: pd.DataFrame
    circumstances: dict[str, Any]

    def write(self, folder: str | Path) -> list[Path]:
        """metrics.json and samples.parquet in `folder`; returns their paths."""
        metrics, samples = Path(folder) / "metrics.json", Path(folder) / "samples.parquet"
        write_json(metrics, self.metrics)
        with atomic_path(samples) as scratch:
            self.samples.to_parquet(scratch, index=False)
        return [metrics, samples]


LM_EVAL_KEYS = ("n-samples", "n-shot", "versions")


class MetricsDisagree(AssertionError):
    """Accuracies recomputed from sample rows are not those of lm_eval."""


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    mask: str,
    task_folder: str | Path | None = None,
    data_folder: str | Path | None = None,
    limit: int | None = None,
    fewshot_seed: int = 1234,
    checkpoint: str = "",
    **lm_options,
) -> Evaluation:
    """Audit `mask` for leaks, then score `tasks` under it.

    tasks: names of multiple-choice tasks or groups, in `task_folder` or among lm_eval's own (which
        are looked through only when a name is not in the folder: that takes seconds).
    data_folder: handed to the tasks as metadata: a task's `custom_dataset: !function` gets it as
        the keyword `data_folder`.
        The name of a task says its protocol: tasks of both may be scored together.
    limit: the first so many documents of each task; None for all. The published protocol has 500.
    checkpoint: what the sample rows shall call the model.
    lm_options: further arguments of `MaskedLM` (row_tokens, batch_tokens, ...); they come before
        what the protocol brings.

    Raises ValueError for a task that is no multiple choice with one right answer, MaskNotObeyed
    when the model does not use the mask, MetricsDisagree when the rows do not give lm_eval's own
    acc, acc_norm and acc_bytes.
    """
    audit = leak_audit(model, mask)
    metadata = {} if data_folder is None else {"data_folder": str(data_folder)}
    manager = _task_manager(tasks, task_folder, metadata)
    rows: list[dict] = []
    theirs: dict[str, Mapping] = {}
    named: dict[str, dict] = {key: {} for key in LM_EVAL_KEYS}
    row_tokens = []
    for macro, names in macros(tasks).items():
        brought, most = PROTOCOL_BRINGS[protocol_of(macro)]
        lm = MaskedLM(model, tokenizer, mask=mask, **(brought | lm_options))
        first = min((n for n in (limit, most) if n is not None), default=None)
        found, results = _score(lm, manager.load(names), first, fewshot_seed)
        rows, theirs = rows + found, theirs | results["results"]
        for key in LM_EVAL_KEYS:
            named[key] |= results[key]
        row_tokens.append(lm.row_tokens)
    rows = [row | {"mask": mask, "checkpoint": checkpoint} for row in rows]
    samples = pd.DataFrame(rows, columns=list(SAMPLE_COLUMNS)).astype(SAMPLE_COLUMNS)
    metrics = metrics_from_samples(samples)
    _check_against_lm_eval(metrics, theirs)
    return Evaluation(
        {
            "mask": mask,
            "leak_audit": audit.as_dict(),
            "tasks": metrics,
            "task_hashes": task_hashes(samples),
            **named,
        },
        samples,
        circumstances(model) | {"row_tokens": min(row_tokens)},
    )


def _score(
    lm: MaskedLM, loaded: Mapping, limit: int | None, fewshot_seed: int
) -> tuple[list[dict], Mapping[str, Any]]:
    """Sample rows of every task in `loaded`, and what lm_eval says of them itself."""
    for name, task in loaded["tasks"].items():
        _refuse_other_tasks(name, task)
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(fewshot_seed)
    # Not simple_evaluate: it asks the hub for the model's revision and runs shell commands.
    results = lm_eval_evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    rows = [
        row
        for name, task in loaded["tasks"].items()
        for sample in results["samples"][name]
        for row in _choice_rows(name, task, sample, lm)
    ]
    return rows, results


def task_hashes(samples: pd.DataFrame) -> dict[str, str]:
    """{task: one hash of its items, in their order}, as lm_eval's EvaluationTracker takes it."""
    items = samples[samples.choice == 0]
    hashes = items.doc_hash + items.prompt_hash + items.target_hash
    return {task: sha256_text("".join(h)) for task, h in hashes.groupby(items.task)}


def _task_manager(
    tasks: Sequence[str], task_folder: str | Path | None, metadata: Mapping[str, str]
) -> TaskManager:
    if task_folder is not None:
        if not Path(task_folder).is_dir():
            raise FileNotFoundError(f"task folder {task_folder}: no such folder")
        ours = TaskManager(
            include_path=str(task_folder), include_defaults=False, metadata=dict(metadata)
        )
        if set(tasks) <= set(ours.all_tasks):
            return ours
    everything = TaskManager(
        include_path=None if task_folder is None else str(task_folder), metadata=dict(metadata)
    )
    unknown = sorted(set(tasks) - set(everything.all_tasks))
    if unknown:
        raise ValueError(
            f"unknown tasks: {', '.join(unknown)}. Neither {task_folder} nor lm_eval has them; "
            f"there are {', '.join(ours.all_tasks) if task_folder else 'lm_eval ls tasks'}"
        )
    return everything


def _refuse_other_tasks(name: str, task: ConfigurableTask) -> None:
    reason = None
    if task.OUTPUT_TYPE != "multiple_choice":
        reason = f"its output_type is {task.OUTPUT_TYPE}, expected multiple_choice"
    elif callable(task.config.process_results):
        reason = "it computes its own metrics (process_results)"
    elif task.multiple_target:
        reason = "its items have several right answers"
    if reason:
        raise ValueError(
            f"task {name} cannot be tabulated item by item: {reason}. Run it with "
            "lm_eval.simple_evaluate(model=MaskedLM(...)) instead."
        )


def _choice_rows(name: str, task: ConfigurableTask, sample: Mapping, lm: MaskedLM) -> list[dict]:
    """One row per choice of a logged sample, with lengths and gold found as lm_eval finds them."""
    doc = sample["doc"]
    choices = task.doc_to_choice(doc)
    # In partial evaluation (WinoGrande) the choices stand in the contexts: the "text" of the item
    # is then the index of the right one, and its "target" the common continuation.
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    gold = choices.index(gold) if isinstance(gold, str) else int(gold)
    if not 0 <= gold < len(choices):
        raise ValueError(
            f"task {name}, doc {sample['doc_id']}: gold {gold} is no index of its "
            f"{len(choices)} choices"
        )
    rows = []
    for index, choice in enumerate(choices):  # requests after these are of other metrics
        score = lm.scores[tuple(sample["arguments"][index])]
        rows.append(
            {
                "task": name,
                "doc_id": sample["doc_id"],
                "doc_hash": sample["doc_hash"],
                "prompt_hash": sample["prompt_hash"],
                "target_hash": sample["target_hash"],
                "choice": index,
                "gold": gold,
                "loglikelihood": score.loglikelihood,
                "loglikelihood_float32": score.loglikelihood_float32,
                "is_greedy": score.is_greedy,
                "tokens": score.tokens,
                "characters": len(choice),
                "bytes": len(choice.encode()),
                "truncated": score.truncated,
            }
        )
    return rows


def _check_against_lm_eval(
    metrics: Mapping[str, Mapping[str, float | int]], theirs: Mapping[str, Mapping]
) -> None:
    for task, ours in metrics.items():
        for metric in ("acc", "acc_norm", "acc_bytes"):
            expected = theirs.get(task, {}).get(f"{metric},none")
            if expected is not None and abs(ours[metric] - expected) > 1e-9:
                raise MetricsDisagree(
                    f"task {task}: {metric} is {ours[metric]:.6f} from the sample rows, but "
                    f"{expected:.6f} from lm_eval. The rows do not describe what was scored: "
                    "gold, choice order or lengths were read differently. This is a bug."
                )
