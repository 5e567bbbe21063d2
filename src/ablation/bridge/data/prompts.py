"""The text around a question: prompts, which are the same for every arm, and training targets.

Every prompt ends with the same suffix, and no prompt contains a gold answer, because prompts are
made from questions alone. No torch.
"""

from __future__ import annotations

from ablation.bridge.data.answers import MARK, marked_answer
from ablation.vocabulary.bridge import GSM8K, HOTPOTQA

SUFFIX = "\nAnswer:"
INSTRUCTIONS = {  # Models of the hub have not learned to write `####`, so every arm explains it.
    GSM8K: "\nReason step by step. End with '#### ' and the answer as one number.",
    HOTPOTQA: "\nEnd with '#### ' and the answer in a few words.",
}


def prompt_suffix(regime: str) -> str:
    """The end of every prompt of a regime, for the source and for the target."""
    return INSTRUCTIONS.get(regime, "") + SUFFIX


def problem_text(question: str) -> str:
    """The part of a prompt before the suffix, for the source and for the target."""
    return f"Problem: {question}"


def prompt_text(question: str) -> str:
    """The whole prompt for a model that reads the question as text."""
    return problem_text(question) + SUFFIX


def problem_with_draft(question: str, generated: str) -> str:
    """The part of a cascade's prompt before the suffix: the question and the source's answer.

    The draft is the marked answer of the text that the source `generated`, or the whole text if
    it has no mark.
    """
    return f"{problem_text(question)}\nDraft: {marked_answer(generated) or generated.strip()}"


def answer_text(answer: str, solution: str = "") -> str:
    """The training target after the suffix. The end-of-sequence token is added as a token."""
    return f" {solution}\n{MARK} {answer}" if solution else f" {MARK} {answer}"
