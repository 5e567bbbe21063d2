"""Continuations that models generate, as rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

FORMATS = (".jsonl", ".csv", ".md")  # the suffixes of files that `ablation sample` can write


class CannotSample(ValueError):
    """The requested continuations cannot be generated; the message says why and what to do."""


@dataclass(frozen=True)
class Continuation:
    """The continuation of one prompt by one model under one mask; a row of the file.

    answer: the expected continuation, or an empty text if it is unknown.
    model: `base`, or the recipe of the finetuning with `seed`.
    """

    prompt: str
    answer: str
    model: str
    seed: int | None
    mask: str
    text: str
