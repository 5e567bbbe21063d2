"""Messages in text, which the source may send to the target in place of soft tokens. No torch.

A message of the arm `text_answer` is the source's answer. It has no more bytes (UTF-8) than K soft
tokens in their smallest format, and the target reads it in place of the soft tokens.
"""

from __future__ import annotations

from ablation.bridge.data.prompts import Question, draft_text, problem_with_draft


def text_message(generated: str, most_bytes: int) -> str:
    """The answer in a text that the source `generated`, cut to at most `most_bytes` bytes."""
    return draft_text(generated).encode()[:most_bytes].decode(errors="ignore")


def message_problem(question: Question, message: str) -> str:
    """The part of the target's prompt before the suffix: the query, if there is one, and a message.

    As with soft tokens, the target does not read the question's text.
    """
    return problem_with_draft(question.query, message)


def message_bytes(message: str) -> int:
    """The bytes of a message (UTF-8)."""
    return len(message.encode())
