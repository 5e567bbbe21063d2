"""Evaluates the arms that need no translator, and the identity control.

The arms are each model alone on the text, the target on as many tokens of text as there are soft
tokens (the token budget), and the cascade, in which the target reads the source's answer as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.bridge.data.prompts import problem_text, problem_with_draft
from ablation.bridge.evaluation.generate import Generated, generate
from ablation.bridge.evaluation.sample_rows import sample_rows
from ablation.bridge.evaluation.section_meter import SectionMeter
from ablation.bridge.model.batches import Row
from ablation.bridge.model.embeddings import input_embeddings
from ablation.bridge.model.pair import FrozenModel, Pair
from ablation.vocabulary.bridge import SOFT_ONLY


class AnswerLimits(NamedTuple):
    """The most new tokens of an answer, and the questions that are answered at a time."""

    max_new_tokens: int
    eval_batch: int


def unbridged_rows(
    pair: Pair,
    records: Sequence[Mapping],
    budgets: Sequence[int],
    limits: AnswerLimits,
    meter: SectionMeter | None = None,
    **columns: object,
) -> list[dict]:
    """Sample rows of the arms without a translator and of the identity control.

    The token budget has rows for each K of `budgets`; K is 0 in the rows of other arms. Every row
    also has `columns` and the number of the question's tokens (`question_tokens`).
    """
    source, target = pair
    questions, meter = [r["question"] for r in records], meter or SectionMeter()
    generated: dict[tuple[str, int], Generated] = {}

    def answer(
        frozen: FrozenModel,
        arm: str,
        prompts: Sequence[Row],
        soft: Sequence[Tensor] | None = None,
        k: int = 0,
    ) -> list[str]:
        with meter.section(f"{arm}-k{k}" if k else arm, len(prompts)):
            generated[arm, k] = generate(
                frozen,
                prompts,
                soft,
                max_new_tokens=limits.max_new_tokens,
                batch_size=limits.eval_batch,
            )
        return generated[arm, k].texts

    drafts = answer(source, "source_alone", [source.encoder.text_row(q) for q in questions])
    answer(target, "target_alone", [target.encoder.text_row(q) for q in questions])
    cascade = [
        target.encoder.text_row(question, problem=problem_with_draft(question, draft))
        for question, draft in zip(questions, drafts, strict=True)
    ]
    answer(target, "cascade", cascade)
    answer(target, "identity", *identity_rows(target, questions))
    for k in budgets:
        rows = [target.encoder.budget_row(k, question) for question in questions]
        answer(target, "token_budget", rows, k=k)
    lengths = [len(target.encoder.encode(problem_text(question))) for question in questions]
    return [
        row | {"question_tokens": lengths[row["item"]]}
        for (arm, k), own in generated.items()
        for row in sample_rows(own, records, **columns, arm=arm, k=k, noise=0)
    ]


def identity_rows(
    target: FrozenModel, questions: Sequence[str]
) -> tuple[list[Row], Sequence[Tensor]]:
    """Prompts whose soft tokens are the target's own embeddings of the question.

    K is the number of the question's tokens. The target must generate exactly the text that it
    generates from the question as text.
    """
    ids = [target.encoder.encode(problem_text(question)) for question in questions]
    rows = [
        target.encoder.bridged_row(len(own), SOFT_ONLY, question)
        for own, question in zip(ids, questions, strict=True)
    ]
    return rows, EmbeddedRows(target.model, ids)


class EmbeddedRows(Sequence[Tensor]):
    """The target's embeddings of rows of token ids.

    They are looked up when they are needed, because long contexts do not all fit into memory.
    """

    def __init__(self, model: PreTrainedModel, ids: Sequence[Sequence[int]]) -> None:
        self.table, self.ids = input_embeddings(model), ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]  # no slices are needed
        ids = torch.tensor(self.ids[index], device=self.table.weight.device)
        return self.table(ids).detach()
