"""Messages in text, which the source may send to the target in place of soft tokens.

A message of the arm `text_answer` is the source's answer. It has no more bytes (UTF-8) than K soft
tokens in their smallest format. As with soft tokens, the target does not read the question's text:
its answer begins with the message, and it may go on.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablation.bridge.data.answers import cut_at_stop
from ablation.bridge.data.prompts import Question, answer_text, draft_text
from ablation.bridge.evaluation.generate import Generated
from ablation.bridge.model.batches import Row
from ablation.bridge.model.prompt_encoder import PromptEncoder


def text_message(generated: str, most_bytes: int) -> str:
    """The answer in a text that the source `generated`, cut to at most `most_bytes` bytes."""
    return draft_text(generated).encode()[:most_bytes].decode(errors="ignore")


def message_bytes(message: str) -> int:
    """The bytes of a message (UTF-8)."""
    return len(message.encode())


def message_row(encoder: PromptEncoder, question: Question, message: str) -> Row:
    """The target's prompt: the query, if there is one, and the beginning of its answer."""
    row = encoder.text_row(Question("", question.query))
    return Row([*row.ids, *encoder.encode(answer_text(message))], row.span)


def with_messages(generated: Generated, messages: Sequence[str]) -> Generated:
    """What the target has answered: each message, and the text that it generated after it."""
    texts = [
        cut_at_stop(answer_text(message) + text)
        for message, text in zip(messages, generated.texts, strict=True)
    ]
    return generated._replace(texts=texts)
