"""The text around a question: prompts, which are the same for every arm, and training targets.

Every prompt ends with the same suffix, and no prompt contains a gold answer, because prompts are
made from questions alone. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ablation.bridge.data.answers import MARK, marked_answer
from ablation.vocabulary.bridge import GSM8K, HOTPOTQA, HOTPOTQA_QUERY_AGNOSTIC

SUFFIX = "\nAnswer:"
INSTRUCTIONS = {  # Models of the hub have not learned to write `####`, so every arm explains it.
    GSM8K: "\nReason step by step. End with '#### ' and the answer as one number.",
    HOTPOTQA: "\nEnd with '#### ' and the answer in a few words.",
}
INSTRUCTIONS[HOTPOTQA_QUERY_AGNOSTIC] = INSTRUCTIONS[HOTPOTQA]


class Question(NamedTuple):
    """The text that soft tokens stand for, and the query that the target reads after them.

    A record of a query-agnostic regime has a `context`: that is the text, which the source reads
    before the question is known, and the question is the query. In all other regimes the source
    reads the question, and there is no query.
    """

    text: str
    query: str = ""

    @classmethod
    def of(cls, record: Mapping) -> Question:
        """The question of a record {question, context?}."""
        if "context" in record:
            return cls(record["context"], record["question"])
        return cls(record["question"])

    @property
    def whole(self) -> str:
        """The text and the query, as a model reads them that is given both."""
        return self.text + query_text(self.query)


def prompt_suffix(regime: str) -> str:
    """The end of every prompt of a regime, for the source and for the target."""
    return INSTRUCTIONS.get(regime, "") + SUFFIX


def problem_text(question: str) -> str:
    """The part of a prompt before the suffix, for the source and for the target."""
    return f"Problem: {question}" if question else "Problem:"


def query_text(query: str) -> str:
    """The part of a prompt between the text and the suffix; empty without a query."""
    return f" {query}" if query else ""


def prompt_text(question: str) -> str:
    """The whole prompt for a model that reads the question as text."""
    return problem_text(question) + SUFFIX


def draft_text(generated: str) -> str:
    """The answer that the source hands on: the marked answer of the text that it `generated`, or
    the whole text if it has no mark."""
    return marked_answer(generated) or generated.strip()


def problem_with_draft(question: str, draft: str) -> str:
    """The part of a prompt before the suffix: a question and the source's answer to it."""
    return f"{problem_text(question)}\nDraft: {draft}"


def answer_text(answer: str, solution: str = "") -> str:
    """The training target after the suffix. The end-of-sequence token is added as a token."""
    return f" {solution}\n{MARK} {answer}" if solution else f" {MARK} {answer}"
