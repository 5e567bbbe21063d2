"""The one place that tokenises, pads and numbers what the two models read.

Prompts are cut nowhere: what does not fit is an error. Training rows are padded on the right, so
that nothing stands between soft tokens and answer; rows to generate from are padded on the left.
Positions count real tokens from 0 and are always passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import torch
from torch import BoolTensor, LongTensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ablation.bridge import prompts
from ablation.packing import IGNORED_LABEL, moved

SOFT = -1  # in a row of ids: a soft token stands here


class TooLong(ValueError):
    """A prompt has more tokens than the study allows; none is ever cut."""


@dataclass(frozen=True)
class Row:
    """What one model reads: token ids, SOFT where a soft token goes; the answer that may follow.

    `span` is where the question's own tokens stand in `ids`: (first, one past the last).
    """

    ids: Sequence[int]
    span: tuple[int, int]
    answer: Sequence[int] = ()


@dataclass(frozen=True)
class Batch:
    """Rows as tensors, all [rows, tokens]; typed, so that a forward gets nothing else."""

    ids: LongTensor  # token ids; the padding id where a soft token or nothing stands
    soft: BoolTensor  # soft tokens, K a row or none
    mask: BoolTensor  # False on padding
    span: BoolTensor  # the question's own tokens
    positions: LongTensor
    labels: LongTensor  # an answer's own ids, IGNORED_LABEL elsewhere

    def to(self, device: torch.device | str) -> Batch:
        return replace(self, **{f.name: moved(getattr(self, f.name), device) for f in fields(self)})


class Words:
    """A tokenizer, the words of `prompts`, and the most tokens that a prompt may have.

    Every prompt is `head`, what is asked, `suffix`. With `chat` it is a turn of the tokenizer's own
    chat template, whatever stands in it: text or soft tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int,
        suffix: str = prompts.SUFFIX,
        chat: bool = False,
    ):
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.eos = tokenizer.eos_token_id
        self.pad = self.eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._ids = cache(self._ids)  # a training asks for the same texts at every step
        before, after = self._turn() if chat else (self.bos, [])
        self.head, self.suffix = before, [*self.encode(suffix), *after]

    def _turn(self) -> tuple[list[int], list[int]]:
        """What a chat template has before and after the words of a user. ValueError: has none."""
        if not self.tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: say `chat: false`")
        inside = "\N{OBJECT REPLACEMENT CHARACTER}"
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": inside}],
            tokenize=False,
            add_generation_prompt=True,
            date_string="26 Jul 2024",  # Llama 3.1 names a day: always the same
        )
        before, _, after = text.partition(inside)
        # words are encoded with the space before them that the template leaves open
        return self.encode(before.rstrip(" ")), self.encode(after)

    def encode(self, text: str) -> list[int]:
        """Token ids without BOS or EOS. Raises TooLong."""
        return list(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) > self.max_tokens:
            raise TooLong(
                f"{len(ids)} tokens where {self.max_tokens} are allowed (max_tokens): {text[:60]!r}"
            )
        return ids

    def answer(self, text: str, eos: bool, solution: str = "") -> list[int]:
        """What training supervises; with `eos` it says where an answer ends."""
        return [*self.encode(prompts.worked(text, solution)), *([self.eos] if eos else [])]

    def text(self, question: str, answer: Sequence[int] = (), head: str | None = None) -> Row:
        """A prompt in text: BOS, the question (or `head` in its place), the suffix."""
        return self._row(self.encode(head or prompts.problem(question)), answer)

    def _row(self, ids: Sequence[int], answer: Sequence[int] = ()) -> Row:
        start = len(self.head)
        return Row([*self.head, *ids, *self.suffix], (start, start + len(ids)), answer)

    def question(self, question: str) -> Row:
        """What the source reads for the translator: BOS and the question, no example, no suffix."""
        ids = self.encode(prompts.problem(question))
        return Row([*self.bos, *ids], (len(self.bos), len(self.bos) + len(ids)))

    def bridged(self, k: int, mode: str, question: str, answer: Sequence[int] = ()) -> Row:
        """What the target reads beside K soft tokens: one BOS, the suffix of all other arms.

        soft_only holds no word of the question. Under `adapter` soft tokens are added to the
        question's own embeddings, so none has a place of its own.
        """
        if mode == "adapter":
            return self.text(question, answer)
        inner = self.encode(prompts.problem(question)) if mode == "soft_plus_text" else []
        start = len(self.head) + k
        ids = [*self.head, *k * [SOFT], *inner, *self.suffix]
        return Row(ids, (start, start + len(inner)), answer)

    def budget(self, k: int, question: str) -> Row:
        """The first `k` tokens of the question, and the suffix: what K tokens of text can say."""
        return self._row(self.encode(prompts.problem(question))[:k])


def batch(rows: Sequence[Row], pad: int, left: bool = False) -> Batch:
    """Rows padded to the longest, on the right, or on the `left` for generation.

    Raises ValueError when a row padded on the left has an answer.
    """
    if left and any(row.answer for row in rows):
        raise ValueError("rows to generate from hold an answer: it would be shown to the model")
    whole = [torch.tensor([*row.ids, *row.answer]) for row in rows]
    side = "left" if left else "right"
    ids = pad_sequence(whole, batch_first=True, padding_value=pad, padding_side=side)
    lengths, read = (torch.tensor(n)[:, None] for n in zip(*_lengths(rows), strict=True))
    first, end = torch.tensor([row.span for row in rows]).T[..., None]
    width = ids.shape[1]
    place = torch.arange(width) - (width - lengths if left else 0)  # of a token in its row
    mask, soft = (place >= 0) & (place < lengths), ids == SOFT
    return Batch(
        ids=ids.masked_fill(soft, pad),
        soft=soft,
        mask=mask,
        span=(place >= first) & (place < end),
        positions=place.where(mask, 0),
        labels=ids.where(mask & (place >= read), IGNORED_LABEL),
    )


def _lengths(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """(tokens of a row, those of them that are read) of each."""
    return [(len(row.ids) + len(row.answer), len(row.ids)) for row in rows]
