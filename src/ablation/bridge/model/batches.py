"""Rows of token ids and soft tokens as padded tensors.

Rows for training are padded on the right, so that no padding is between the soft tokens and the
answer. Rows for generation are padded on the left. Positions count real tokens from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ablation.model.packing import IGNORED_LABEL, moved

SOFT = -1  # the place of a soft token in a row of token ids


@dataclass(frozen=True)
class Row:
    """The input of one model: token ids with SOFT at soft tokens, and an answer that may follow.

    `span` is the place of the question's own tokens in `ids`: (first, one past the last).
    """

    ids: Sequence[int]
    span: tuple[int, int]
    answer: Sequence[int] = ()


@dataclass(frozen=True)
class Batch:
    """Rows as tensors [rows, tokens]."""

    ids: Tensor  # long: token ids; the padding id at soft tokens and padding
    soft: Tensor  # bool: soft tokens, K in a row or none
    mask: Tensor  # bool: False at padding
    span: Tensor  # bool: the question's own tokens
    positions: Tensor  # long
    labels: Tensor  # long: the ids of an answer, IGNORED_LABEL elsewhere

    def to(self, device: torch.device | str) -> Batch:
        """The batch with all tensors on `device`."""
        return Batch(**{f.name: moved(getattr(self, f.name), device) for f in fields(self)})


def make_batch(rows: Sequence[Row], padding_id: int, left: bool = False) -> Batch:
    """Rows padded to the longest one, on the right or, for generation, on the `left`.

    Raises ValueError if a row that is padded on the left has an answer.
    """
    if left and any(row.answer for row in rows):
        raise ValueError("rows to generate from have an answer: it would be shown to the model")
    sequences = [torch.tensor([*row.ids, *row.answer]) for row in rows]
    side = "left" if left else "right"
    ids = pad_sequence(sequences, batch_first=True, padding_value=padding_id, padding_side=side)
    lengths = torch.tensor([len(sequence) for sequence in sequences])[:, None]
    prompt_lengths = torch.tensor([len(row.ids) for row in rows])[:, None]
    first, end = torch.tensor([row.span for row in rows]).T[..., None]
    width = ids.shape[1]
    place = torch.arange(width) - (width - lengths if left else 0)  # index of a token in its row
    mask, soft = (place >= 0) & (place < lengths), ids == SOFT
    return Batch(
        ids=ids.masked_fill(soft, padding_id),
        soft=soft,
        mask=mask,
        span=(place >= first) & (place < end),
        positions=place.where(mask, 0),
        labels=ids.where(mask & (place >= prompt_lengths), IGNORED_LABEL),
    )
