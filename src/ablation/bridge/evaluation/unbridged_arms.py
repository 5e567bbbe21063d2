"""Evaluates the arms that need no translator, and the identity control.

The arms are each model alone on the text, the target on as many tokens of text as there are soft
tokens (the token budget), the target on the source's answer in text of no more bytes than the soft
tokens (the text answer), and the cascade, in which the target reads the question and that answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.bridge.data.prompts import Question, draft_text, problem_text, problem_with_draft
from ablation.bridge.evaluation.generate import Generated, generate
from ablation.bridge.evaluation.sample_rows import sample_rows
from ablation.bridge.evaluation.section_meter import SectionMeter
from ablation.bridge.evaluation.text_messages import (
    message_bytes,
    message_row,
    text_message,
    with_messages,
)
from ablation.bridge.model.batches import Row
from ablation.bridge.model.embeddings import input_embeddings
from ablation.bridge.model.pair import FrozenModel, Pair
from ablation.vocabulary.bridge import SOFT_ONLY, fewest_soft_token_bytes


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

    The token budget and the text answer have rows for each K of `budgets`; K is 0 in the rows of
    other arms. Every row also has `columns`, the number of tokens of the question's text in the
    target's tokenizer (`question_tokens`), its bytes (`question_bytes`), the number of tokens of
    the source's input for a translator (`source_tokens`), and the bytes that the source sent as
    text (`message_bytes`).
    """
    source, target = pair
    questions, meter = [Question.of(r) for r in records], meter or SectionMeter()
    width = input_embeddings(target.model).weight.shape[1]
    generated: dict[tuple[str, int], Generated] = {}
    sent: dict[tuple[str, int], list[int]] = {}

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
    answers = [draft_text(draft) for draft in drafts]
    cascade = [
        target.encoder.problem_row(problem_with_draft(question.whole, own))
        for question, own in zip(questions, answers, strict=True)
    ]
    answer(target, "cascade", cascade)
    sent["cascade", 0] = [message_bytes(own) for own in answers]
    answer(target, "identity", *identity_rows(target, questions))
    for k in budgets:
        rows = [target.encoder.budget_row(k, question) for question in questions]
        answer(target, "token_budget", rows, k=k)
        messages = [text_message(draft, fewest_soft_token_bytes(k, width)) for draft in drafts]
        rows = [
            message_row(target.encoder, question, message)
            for question, message in zip(questions, messages, strict=True)
        ]
        answer(target, "text_answer", rows, k=k)
        generated["text_answer", k] = with_messages(generated["text_answer", k], messages)
        sent["text_answer", k] = [message_bytes(message) for message in messages]
    lengths = [len(target.encoder.encode(problem_text(q.text))) for q in questions]
    read = [len(source.encoder.source_row(question.text).ids) for question in questions]
    nothing = [0] * len(questions)
    return [
        row
        | {"question_tokens": lengths[row["item"]], "source_tokens": read[row["item"]]}
        | {"question_bytes": message_bytes(questions[row["item"]].text)}
        | {"message_bytes": sent.get((arm, k), nothing)[row["item"]]}
        for (arm, k), own in generated.items()
        for row in sample_rows(own, records, **columns, arm=arm, k=k, noise=0)
    ]


def identity_rows(
    target: FrozenModel, questions: Sequence[Question]
) -> tuple[list[Row], Sequence[Tensor]]:
    """Prompts whose soft tokens are the target's own embeddings of the question's text.

    K is the number of the text's tokens. The target must generate exactly the text that it
    generates from the question as text.
    """
    ids = [target.encoder.encode(problem_text(question.text)) for question in questions]
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
