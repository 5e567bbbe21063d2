"""Turns questions and answers into rows of token ids: the only place that tokenizes prompts.

No prompt is cut: a prompt that is too long is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ablation.bridge.data.prompts import (
    SUFFIX,
    Question,
    answer_text,
    problem_text,
    prompt_suffix,
    query_text,
)
from ablation.bridge.model.batches import SOFT, Row
from ablation.vocabulary.bridge import ADAPTER, SOFT_PLUS_TEXT


class TooLong(ValueError):
    """A prompt has more tokens than the study allows."""


class PromptFormat(NamedTuple):
    """The regime, the most tokens of a text, and whether prompts are turns of a chat template."""

    regime: str
    max_tokens: int
    chat: bool


class PromptEncoder:
    """A tokenizer that makes rows of prompts.

    Every prompt is `head`, then the question's text as text or soft tokens, then its query if it
    has one, then `suffix`. With `chat` the prompt is a turn of the tokenizer's own chat template,
    so `head` and `suffix` contain the template's tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int,
        suffix: str = SUFFIX,
        chat: bool = False,
    ) -> None:
        """Raises ValueError if `chat` is set and the tokenizer has no chat template."""
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.eos = tokenizer.eos_token_id
        self.pad = self.eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        # A training encodes the same texts at every step.
        self._cached_ids = cache(self._ids)
        before, after = self._chat_turn() if chat else (self.bos, [])
        self.head, self.suffix = before, [*self.encode(suffix), *after]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, form: PromptFormat) -> PromptEncoder:
        """The encoder of a study's prompts."""
        return cls(tokenizer, form.max_tokens, prompt_suffix(form.regime), form.chat)

    def _chat_turn(self) -> tuple[list[int], list[int]]:
        """The tokens of the chat template before and after the text of a user."""
        if not self.tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: set `chat: false`")
        placeholder = "\N{OBJECT REPLACEMENT CHARACTER}"
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": placeholder}],
            tokenize=False,
            add_generation_prompt=True,
            date_string="26 Jul 2024",  # Llama 3.1's template contains a date: always the same one
        )
        before, _, after = str(text).partition(placeholder)
        # Texts are encoded with a space before them, so the template's own space is removed.
        return self.encode(before.rstrip(" ")), self.encode(after)

    def encode(self, text: str) -> list[int]:
        """Token ids without BOS or EOS. Raises TooLong."""
        return list(self._cached_ids(text))

    def _ids(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) > self.max_tokens:
            raise TooLong(
                f"{len(ids)} tokens where {self.max_tokens} are allowed (max_tokens): {text[:60]!r}"
            )
        return ids

    def encode_answer(self, text: str, eos: bool, solution: str = "") -> list[int]:
        """The tokens that training supervises; with `eos` they end with EOS."""
        return [*self.encode(answer_text(text, solution)), *([self.eos] if eos else [])]

    def text_row(self, question: Question, answer: Sequence[int] = ()) -> Row:
        """A prompt in text: head, the question's text and query, suffix."""
        return self._row(self.encode(problem_text(question.text)), question.query, answer)

    def problem_row(self, problem: str) -> Row:
        """A prompt in text with `problem` in place of the question."""
        return self._row(self.encode(problem))

    def _row(
        self, ids: Sequence[int], query: str = "", answer: Sequence[int] = (), soft: int = 0
    ) -> Row:
        start = len(self.head) + soft
        asked = self.encode(query_text(query)) if query else []
        row = [*self.head, *soft * [SOFT], *ids, *asked, *self.suffix]
        return Row(row, (start, start + len(ids)), answer)

    def source_row(self, text: str) -> Row:
        """The source's input for the translator: BOS and a text, without query and suffix."""
        ids = self.encode(problem_text(text))
        return Row([*self.bos, *ids], (len(self.bos), len(self.bos) + len(ids)))

    def bridged_row(self, k: int, mode: str, question: Question, answer: Sequence[int] = ()) -> Row:
        """The target's input with K soft tokens: head, query and suffix are those of all arms.

        Under `soft_only` the row has no token of the question's text. Under `adapter` soft tokens
        are added to the embeddings of the text, so they have no places of their own.
        """
        if mode == ADAPTER:
            return self.text_row(question, answer)
        inner = self.encode(problem_text(question.text)) if mode == SOFT_PLUS_TEXT else []
        return self._row(inner, question.query, answer, soft=k)

    def budget_row(self, k: int, question: Question) -> Row:
        """The first `k` tokens of the text, the query and the suffix: as long as K soft tokens."""
        return self._row(self.encode(problem_text(question.text))[:k], question.query)
