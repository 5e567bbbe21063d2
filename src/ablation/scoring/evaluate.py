"""Scores a model under a mask on lm_eval tasks; the result has one row per item and choice.

`ablation.scoring.items` has the items, which lm_eval builds once for all masks, and
`ablation.scoring.masked_lm` scores them. The sample rows hold everything that
`ablation.analysis.metrics` needs to compute the study's accuracies; lm_eval computes its own from
the same responses, and the two must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedModel

from ablation.data.sample_rows import SAMPLE_COLUMNS, refuse_nan
from ablation.interventions.protocol import Intervention
from ablation.model.checkpoints import circumstances
from ablation.model.leak_audit import leak_audit
from ablation.provenance.atomic import atomic_path
from ablation.provenance.files import sha256_text, write_json
from ablation.scoring.items import PROTOCOL_OPTIONS, Items
from ablation.scoring.masked_lm import MaskedLM

LM_EVAL_KEYS = ("n-samples", "n-shot", "versions")
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
    items: Items,
    mask: str,
    checkpoint: str = "",
    row_tokens: int | None = 256,
    batch_tokens: int = 512,
    logits_dtype: str | None = None,
    label: str = "scoring",
    intervention: Intervention | None = None,
    condition: str | None = None,
    halved: int = 0,
) -> EvaluationResult:
    """Audit `mask` for leaks, then score `items` under it.

    items: they can be scored under any number of masks and interventions.
    checkpoint: the name of the model in the sample rows.
    row_tokens, batch_tokens, label: see `MaskedLM`.
    logits_dtype: see `MaskedLM`; None for the dtype of each task's protocol.
    intervention: what was taken away from `model` beside the mask; it is seen in force first.
    condition: the name in results of what is scored; by default that of the intervention or mask.
    halved: how often the capacity of rows is halved.

    Raises NotInForce if the intervention is not in force, MaskNotObeyed if the model does not use
    the mask, and the errors of `require_agreement` if it differs from its stock forward.
    """
    evidence = {} if intervention is None else intervention.audit(model)
    lms = [
        MaskedLM(
            model,
            items.tokenizer,
            mask=mask,
            row_tokens=row_tokens,
            batch_tokens=batch_tokens,
            logits_dtype=logits_dtype or PROTOCOL_OPTIONS[part.protocol].logits_dtype,
            protocol=part.protocol,
            label=label,
        )
        for part in items.by_protocol
    ]
    for lm in lms:
        lm.row_tokens, lm.batch_tokens = lm.row_tokens >> halved, lm.batch_tokens >> halved
    blocks = [part.encoded(lm) for part, lm in zip(items.by_protocol, lms, strict=True)]
    audit = leak_audit(model, mask, lms[0].row_tokens)  # a thread encodes meanwhile
    scored_under = condition or (intervention.name if intervention else mask)
    rows: list[pd.DataFrame] = []
    lm_eval_results: dict[str, Mapping[str, Any]] = {}
    lm_eval_facts: dict[str, dict] = {key: {} for key in LM_EVAL_KEYS}
    for part, lm, encoded in zip(items.by_protocol, lms, blocks, strict=True):
        scores = lm.score(encoded, len(part.requests))
        results = part.lm_eval_results(scores)
        rows.append(part.sample_rows(scores))
        lm_eval_results |= results["results"]
        for key in LM_EVAL_KEYS:
            lm_eval_facts[key] |= results[key]
    samples = pd.concat(rows, ignore_index=True).assign(mask=scored_under, checkpoint=checkpoint)
    samples = samples[list(SAMPLE_COLUMNS)].astype(SAMPLE_COLUMNS)
    refuse_nan(samples)
    facts = {
        "mask": scored_under,
        "leak_audit": audit.as_dict(),
        **({"intervention_audit": evidence} if evidence else {}),
        "task_hashes": task_hashes(samples),
        "lm_eval": {task: _accuracies(results) for task, results in lm_eval_results.items()},
    }
    used = circumstances(model) | {"row_tokens": min(lm.row_tokens for lm in lms)}
    return EvaluationResult(facts | lm_eval_facts, samples, used)


def _accuracies(results: Mapping[str, Any]) -> dict[str, float]:
    """{metric: value} of the accuracies in lm_eval's results of one task, without standard errors.

    lm_eval reports the standard error of `acc` as `acc_stderr`, or the text N/A in its place.
    """
    named = {key.removesuffix(UNFILTERED): results[key] for key in sorted(results)}
    accuracies = (name for name in named if name.startswith("acc") and "_stderr" not in name)
    return {name: float(named[name]) for name in accuracies}


def task_hashes(samples: pd.DataFrame) -> dict[str, str]:
    """{task: one hash of its items in their order}, as in lm_eval's EvaluationTracker."""
    items = samples[samples.choice == 0]
    hashes = items.doc_hash + items.prompt_hash + items.target_hash
    return {task: sha256_text("".join(h)) for task, h in hashes.groupby(items.task)}
