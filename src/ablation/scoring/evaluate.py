"""Scores a model under a mask on lm_eval tasks; the result has one row per item and choice.

lm_eval makes documents, prompts and requests, and computes accuracies of its own.
`ablation.scoring.masked_lm` scores the requests. The sample rows hold everything that
`ablation.analysis.metrics` needs to compute the study's accuracies.
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

from ablation.data.sample_rows import SAMPLE_COLUMNS, refuse_nan
from ablation.interventions.protocol import Intervention
from ablation.model.checkpoints import circumstances
from ablation.model.checks.agreement import require_agreement
from ablation.model.leak_audit import leak_audit
from ablation.provenance.atomic import atomic_path
from ablation.provenance.files import sha256_text, write_json
from ablation.scoring.masked_lm import MaskedLM
from ablation.vocabulary.protocols import (
    LM_EVAL_PROTOCOL,
    PUBLISHED_PROTOCOL,
    protocol_of,
    tasks_by_macro,
)


class ProtocolOptions(NamedTuple):
    """The dtype in which a protocol scores, and how many items of a task it takes at most."""

    logits_dtype: str
    most_items: int | None


PROTOCOL_OPTIONS = {
    LM_EVAL_PROTOCOL: ProtocolOptions("float32", None),
    PUBLISHED_PROTOCOL: ProtocolOptions("bfloat16", 500),
}
LM_EVAL_KEYS = ("n-samples", "n-shot", "versions")
# The fields of a document that name its cluster. HellaSwag's activities are one; PIQA, ARC and
# WinoGrande have none.
CLUSTER_FIELDS = ("cluster", "activity_label")
UNFILTERED = ",none"  # the ending of a metric's name in lm_eval when no filter was applied


class EvaluationResult(NamedTuple):
    """The result of `evaluate`.

    facts: the content of evaluation.json: {mask, leak_audit: see `leak_audit.LeakAudit`,
        intervention_audit: evidence that an intervention was in force, task_hashes}, facts about
        the tasks under lm_eval's names (LM_EVAL_KEYS), and `lm_eval`, the
        accuracies that lm_eval computed, {task: {metric: value}}.
    samples: one row per item and choice, with `SAMPLE_COLUMNS`.
    circumstances: see `checkpoints.circumstances`, with the capacity of the rows that were scored,
        which is smaller if memory was short.
    """

    facts: dict[str, Any]
    samples: pd.DataFrame
    circumstances: dict[str, Any]

    def write(self, folder: str | Path) -> list[Path]:
        """Write evaluation.json and samples.parquet in `folder`; return their paths."""
        facts, samples = Path(folder) / "evaluation.json", Path(folder) / "samples.parquet"
        write_json(facts, self.facts)
        with atomic_path(samples) as scratch:
            self.samples.to_parquet(scratch, index=False)
        return [facts, samples]


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
    row_tokens: int | None = 256,
    batch_tokens: int = 512,
    logits_dtype: str | None = None,
    label: str = "scoring",
    intervention: Intervention | None = None,
    condition: str | None = None,
) -> EvaluationResult:
    """Audit `mask` for leaks, then score `tasks` under it.

    tasks: names of multiple-choice tasks or groups, in `task_folder` or among lm_eval's own. The
        name of a task gives its protocol; tasks of several protocols may be scored together.
    task_folder: a folder of task files. lm_eval's own tasks, whose index takes seconds, are loaded
        only if a name is not in this folder.
    data_folder: passed to the tasks as metadata: the function of a task's `custom_dataset` receives
        it as the keyword `data_folder`.
    limit: the number of documents that are scored of each task, from the first; None for all. The
        published protocol scores 500 at most.
    checkpoint: the name of the model in the sample rows.
    row_tokens, batch_tokens, label: see `MaskedLM`.
    logits_dtype: see `MaskedLM`; None for the dtype of each task's protocol.
    intervention: what was taken away from `model` beside the mask; it is seen in force first.
    condition: the name in results of what is scored; by default that of the intervention or mask.

    Raises ValueError for a task that is no multiple choice with one right answer, NotInForce if the
    intervention is not in force, MaskNotObeyed if the model does not use the mask, and the errors
    of `require_agreement` if it differs from its stock forward.
    """
    evidence = {} if intervention is None else intervention.audit(model)
    require_agreement(model)
    audit = leak_audit(model, mask)
    scored_under = condition or (intervention.name if intervention else mask)
    metadata = {} if data_folder is None else {"data_folder": str(data_folder)}
    manager = _task_manager(tasks, task_folder, metadata)
    rows: list[dict[str, Any]] = []
    lm_eval_results: dict[str, Mapping[str, Any]] = {}
    lm_eval_facts: dict[str, dict] = {key: {} for key in LM_EVAL_KEYS}
    capacities: list[int] = []
    for macro, names in tasks_by_macro(tasks).items():
        protocol = protocol_of(macro)
        options = PROTOCOL_OPTIONS[protocol]
        lm = MaskedLM(
            model,
            tokenizer,
            mask=mask,
            row_tokens=row_tokens,
            batch_tokens=batch_tokens,
            logits_dtype=logits_dtype or options.logits_dtype,
            protocol=protocol,
            label=label,
        )
        limits = (n for n in (limit, options.most_items) if n is not None)
        scored, results = _score(lm, manager.load(names), min(limits, default=None), fewshot_seed)
        rows, lm_eval_results = rows + scored, lm_eval_results | results["results"]
        for key in LM_EVAL_KEYS:
            lm_eval_facts[key] |= results[key]
        capacities.append(lm.row_tokens)
    rows = [row | {"mask": scored_under, "checkpoint": checkpoint} for row in rows]
    samples = pd.DataFrame(rows, columns=list(SAMPLE_COLUMNS)).astype(SAMPLE_COLUMNS)
    refuse_nan(samples)
    facts = {
        "mask": scored_under,
        "leak_audit": audit.as_dict(),
        **({"intervention_audit": evidence} if evidence else {}),
        "task_hashes": task_hashes(samples),
        "lm_eval": {task: _accuracies(results) for task, results in lm_eval_results.items()},
    }
    used = circumstances(model) | {"row_tokens": min(capacities)}
    return EvaluationResult(facts | lm_eval_facts, samples, used)


def _accuracies(results: Mapping[str, Any]) -> dict[str, float]:
    """{metric: value} of the accuracies in lm_eval's results of one task, without standard errors.

    lm_eval reports the standard error of `acc` as `acc_stderr`, or the text N/A in its place.
    """
    named = {key.removesuffix(UNFILTERED): results[key] for key in sorted(results)}
    accuracies = (name for name in named if name.startswith("acc") and "_stderr" not in name)
    return {name: float(named[name]) for name in accuracies}


def _score(
    lm: MaskedLM, loaded: Mapping, limit: int | None, fewshot_seed: int
) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """Sample rows of every task in `loaded`, and lm_eval's own results."""
    for name, task in loaded["tasks"].items():
        _refuse_other_tasks(name, task)
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(fewshot_seed)
    # simple_evaluate would query the hub for the model's revision and run shell commands.
    results = lm_eval_evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    rows = [
        row
        for name, task in loaded["tasks"].items()
        for sample in results["samples"][name]
        for row in _choice_rows(name, task, sample, lm)
    ]
    return rows, results


def task_hashes(samples: pd.DataFrame) -> dict[str, str]:
    """{task: one hash of its items in their order}, as in lm_eval's EvaluationTracker."""
    items = samples[samples.choice == 0]
    hashes = items.doc_hash + items.prompt_hash + items.target_hash
    return {task: sha256_text("".join(h)) for task, h in hashes.groupby(items.task)}


def _task_manager(
    tasks: Sequence[str], task_folder: str | Path | None, metadata: Mapping[str, str]
) -> TaskManager:
    if task_folder is not None:
        if not Path(task_folder).is_dir():
            raise FileNotFoundError(f"task folder {task_folder}: no such folder")
        own = TaskManager(
            include_path=str(task_folder), include_defaults=False, metadata=dict(metadata)
        )
        if set(tasks) <= set(own.all_tasks):
            return own
    everything = TaskManager(
        include_path=None if task_folder is None else str(task_folder), metadata=dict(metadata)
    )
    unknown = sorted(set(tasks) - set(everything.all_tasks))
    if unknown:
        raise ValueError(
            f"unknown tasks: {', '.join(unknown)}. Neither {task_folder} nor lm_eval has them; "
            f"there are {', '.join(own.all_tasks) if task_folder else 'lm_eval ls tasks'}"
        )
    return everything


def _refuse_other_tasks(name: str, task: ConfigurableTask) -> None:
    """Raise ValueError for a task other than multiple choice with one right answer."""
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


def _choice_rows(
    name: str, task: ConfigurableTask, sample: Mapping[str, Any], lm: MaskedLM
) -> list[dict[str, Any]]:
    """One row per choice of a logged sample, with lengths and gold computed as in lm_eval."""
    doc = sample["doc"]
    choices = task.doc_to_choice(doc)
    # In partial evaluation (WinoGrande) the choices are parts of the contexts. The "text" of the
    # item is then the index of the right choice, and its "target" is the common continuation.
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    gold = choices.index(gold) if isinstance(gold, str) else int(gold)
    if not 0 <= gold < len(choices):
        raise ValueError(
            f"task {name}, doc {sample['doc_id']}: gold {gold} is no index of its "
            f"{len(choices)} choices"
        )
    cluster = next((doc[name] for name in CLUSTER_FIELDS if name in doc), sample["doc_hash"])
    rows = []
    for index, choice in enumerate(choices):  # later requests belong to other metrics
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
                "cluster": cluster,
                "truncated": score.truncated,
            }
        )
    return rows
