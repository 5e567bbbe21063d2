"""Packing: puts prompts and continuations into rows of token ids for a batch.

A row holds one or more examples side by side. Three numbers describe a token: `doc` (the example
that it belongs to), `branch` (0 in the prompt, 1..n in the n-th continuation) and its position id.
A prompt with several continuations is in the row once. Its continuations follow as branches, and
the position ids of each branch continue those of the prompt. `ablation.model.masks` computes
attention masks from these numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

PADDING_DOC = -1
IGNORED_LABEL = -100
# How many widths rows may have if kernels are compiled for each width, which takes some seconds.
WIDTHS = 8
# Tokens of such a row at least. For narrower rows flex attention chooses its kernel for decoding,
# which may fail.
NARROWEST = 128


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and of its continuations. A training response is one continuation."""

    prompt: Sequence[int]
    continuations: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Rows:
    """Packed examples as integer tensors, and the predictions that count.

    The first four are [rows, tokens]. `doc` is the running index of the example, -1 on padding;
    `branch` is 0 in the prompt and 1..n in its continuations. The `target_*` are [targets]: the
    logits at (`target_row`, `target_position`) predict `target_id`, a token of the continuation
    with running index `target_owner`. Continuations are counted over all examples, in the order in
    which `pack` received them; `continuations` is their number.
    """

    input_ids: Tensor
    doc: Tensor
    branch: Tensor
    position_ids: Tensor
    target_row: Tensor
    target_position: Tensor
    target_id: Tensor
    target_owner: Tensor
    continuations: int

    @property
    def labels(self) -> Tensor:
        """[rows, tokens]: each target id at the position that predicts it, and -100 elsewhere.

        Raises ValueError if one position predicts two targets, as the last token of a prompt with
        several continuations does.
        """
        labels = torch.full_like(self.input_ids, IGNORED_LABEL)
        labels[self.target_row, self.target_position] = self.target_id
        placed = int((labels != IGNORED_LABEL).sum())
        if placed != len(self.target_id):
            raise ValueError(
                f"labels: {len(self.target_id)} targets have only {placed} positions, because a "
                "prompt with several continuations predicts the first token of each. Labels need "
                "examples with one continuation; otherwise use target_row, target_position and "
                "target_id."
            )
        return labels

    def to(self, device: torch.device | str) -> Rows:
        """The same rows with every tensor on `device`."""
        tensors = {name: value for name, value in vars(self).items() if torch.is_tensor(value)}
        changes: dict[str, Any] = {name: moved(tensor, device) for name, tensor in tensors.items()}
        return replace(self, **changes)


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. A copy from host memory to a GPU does not wait for work of the GPU."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def token_count(example: Example, keep_last: bool = True) -> int:
    """The number of tokens that `example` takes in a row."""
    dropped = 0 if keep_last else 1
    return len(example.prompt) + sum(max(len(c) - dropped, 0) for c in example.continuations)


def pack(
    examples: Iterable[Example],
    capacity: int,
    keep_last: bool = True,
    width: int | None = None,
) -> Rows:
    """Put each example into the first row that has room for it (first-fit), in the order given.

    A row holds at most `capacity` tokens and is padded to `width`. The default width is that of the
    longest row; give a width where shapes must not change, as in compiled GPU code.
    `keep_last=False` leaves out the last token of every continuation, from which nothing is
    predicted. Keep it in training, and under a mask that shows it to the prompt. The last token of
    the prompt predicts the first token of a continuation. Without a prompt nothing predicts that
    token, so it is no target.

    Raises ValueError if an example is longer than `capacity`, or a row longer than `width`.
    """
    examples = list(examples)
    lengths = [token_count(example, keep_last) for example in examples]
    for index, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(
                f"example {index} takes {length} tokens ({len(examples[index].prompt)} of prompt), "
                f"but a row holds {capacity}. Cut the example or raise the capacity."
            )
    members = _first_fit(lengths, capacity)
    longest = max((sum(lengths[index] for index in row) for row in members), default=0)
    width = longest if width is None else width
    if longest > width:
        raise ValueError(
            f"a row of {longest} tokens does not fit the width of {width}. Lower the capacity."
        )

    first_owner, owners = [], 0  # running index of each example's first continuation
    for example in examples:
        first_owner.append(owners)
        owners += len(example.continuations)

    columns: list[list[int]] = [[], [], [], []]  # input_ids, doc, branch, position_ids
    target_row: list[int] = []
    target_position: list[int] = []
    target_id: list[int] = []
    target_owner: list[int] = []
    for row_index, row in enumerate(members):
        ids: list[int] = []
        doc: list[int] = []
        branch: list[int] = []
        position_ids: list[int] = []
        for index in row:
            prompt = examples[index].prompt
            ids.extend(prompt)
            branch.extend([0] * len(prompt))
            position_ids.extend(range(len(prompt)))
            end_of_prompt = len(ids)
            for number, continuation in enumerate(examples[index].continuations):
                start = len(ids)
                kept = continuation if keep_last else continuation[:-1]
                ids.extend(kept)
                branch.extend([number + 1] * len(kept))
                position_ids.extend(range(len(prompt), len(prompt) + len(kept)))
                predicted = continuation if len(prompt) else continuation[1:]
                if len(prompt) and len(continuation):
                    target_position.append(end_of_prompt - 1)
                target_position.extend(range(start, start + len(continuation) - 1))
                target_id.extend(predicted)
                target_owner.extend([first_owner[index] + number] * len(predicted))
            doc.extend([index] * (len(ids) - len(doc)))
        target_row.extend([row_index] * (len(target_id) - len(target_row)))
        padding = width - len(ids)
        columns[0].extend(ids + padding * [0])
        columns[1].extend(doc + padding * [PADDING_DOC])
        columns[2].extend(branch + padding * [0])
        columns[3].extend(position_ids + padding * [0])

    def tensor(values: list[int]) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.int64))  # in half of torch's time

    input_ids, docs, branches, positions = (
        tensor(column).view(len(members), width) for column in columns
    )
    return Rows(
        input_ids=input_ids,
        doc=docs,
        branch=branches,
        position_ids=positions,
        target_row=tensor(target_row),
        target_position=tensor(target_position),
        target_id=tensor(target_id),
        target_owner=tensor(target_owner),
        continuations=owners,
    )


def padded_prompts(input_ids: Tensor, padding_mask: Tensor) -> Rows:
    """Rows of one prompt each, without targets, from tensors [rows, tokens]; the mask is 0 or 1."""
    nothing = input_ids.new_empty(0)
    return Rows(
        input_ids=input_ids,
        doc=torch.where(padding_mask.bool(), 0, PADDING_DOC),
        branch=torch.zeros_like(input_ids),
        position_ids=(padding_mask.long().cumsum(-1) - 1).clamp(min=0),
        target_row=nothing,
        target_position=nothing,
        target_id=nothing,
        target_owner=nothing,
        continuations=0,
    )


def fixed_rows(
    lengths: Sequence[int], capacity: int, widths: int = WIDTHS
) -> Iterator[tuple[list[int], int]]:
    """Rows of few different widths, for kernels that are compiled for each width.

    Yields (indices of `lengths`, width) for each row. The longest examples are placed first, each
    into the first row that has room for it. The width of a row is the sum of its lengths, rounded
    up to a multiple of `capacity` / `widths`, and at least `NARROWEST`. Raises ValueError if a
    length exceeds `capacity`.
    """
    if max(lengths, default=0) > capacity:
        raise ValueError(f"an example takes {max(lengths)} tokens, but a row holds {capacity}")
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for row in _first_fit([lengths[index] for index in order], capacity):
        members = [order[place] for place in row]
        steps = -(-sum(lengths[index] for index in members) * widths // capacity)
        yield members, max(NARROWEST, max(1, steps) * capacity // widths)


def forwards(
    examples: Sequence[Example], capacity: int, fixed: bool, widths: int = WIDTHS
) -> list[Rows]:
    """The rows of each forward of a batch: all rows at once, or, if `fixed`, one fixed row each."""
    if not fixed:
        return [pack(examples, capacity)]
    rows = fixed_rows([token_count(example) for example in examples], capacity, widths)
    return [pack([examples[i] for i in members], width, width=width) for members, width in rows]


def _first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` by row. Each index goes to the first row with room, found in O(log n).

    `room` is a binary tree over the rows: its root is at 1, its leaves start at `leaves`, and each
    node holds the largest room left in the rows below it.
    """
    leaves = 1
    while leaves < len(lengths):
        leaves *= 2
    room = [capacity] * (2 * leaves)
    rows: list[list[int]] = []
    for index, length in enumerate(lengths):
        node = 1
        while node < leaves:
            node = 2 * node if room[2 * node] >= length else 2 * node + 1
        if node - leaves == len(rows):
            rows.append([])
        rows[node - leaves].append(index)
        room[node] -= length
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return rows
