"""Examples in, rows of token ids out: what stands where, and which position predicts what.

A row holds one or more examples side by side. Three numbers say what a token is: `doc` (which
example it belongs to), `branch` (0 in the prompt, 1..n in the n-th continuation) and its position
id. A prompt with several continuations stands in the row once; its continuations follow as
branches whose position ids all go on from the prompt. `ablation.masks` turns these numbers into
attention masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import LongTensor

PADDING_DOC = -1
IGNORED_LABEL = -100
WIDTHS = 8  # of rows for kernels that are compiled for a width: some seconds each, once
NARROWEST = 128  # tokens of such a row: what flex attention takes narrower for decoding may fail


@dataclass(frozen=True)
class Example:
    """Token ids of one prompt and of what may follow it; one response is one continuation."""

    prompt: Sequence[int]
    continuations: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Rows:
    """Packed examples as tensors, and the list of predictions that count.

    The first four are [rows, tokens]. `doc` is the running index of the example, -1 on padding;
    `branch` is 0 in the prompt and 1..n in its continuations. The `target_*` are [targets]: the
    logits at (`target_row`, `target_position`) predict `target_id`, a token of the continuation
    with running index `target_owner` (continuations counted over all examples, in the order given
    to `pack`). `continuations` is how many there are: the length of a sum over owners.
    """

    input_ids: LongTensor
    doc: LongTensor
    branch: LongTensor
    position_ids: LongTensor
    target_row: LongTensor
    target_position: LongTensor
    target_id: LongTensor
    target_owner: LongTensor
    continuations: int

    @property
    def labels(self) -> LongTensor:
        """[rows, tokens]: each target id at its predictor's position (already shifted), else -100.

        Raises ValueError where one position predicts two targets: several continuations of a
        prompt.
        """
        labels = torch.full_like(self.input_ids, IGNORED_LABEL)
        labels[self.target_row, self.target_position] = self.target_id
        placed = int((labels != IGNORED_LABEL).sum())
        if placed != len(self.target_id):
            raise ValueError(
                f"labels: {len(self.target_id)} targets stand at {placed} positions, because a "
                "prompt with several continuations predicts the first token of each. Labels need "
                "examples with one continuation; otherwise use target_row, target_position and "
                "target_id."
            )
        return labels

    def to(self, device: torch.device | str) -> Rows:
        """The same rows with every tensor on `device`."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "continuations"}
        return replace(self, **{name: moved(tensor, device) for name, tensor in tensors.items()})


def moved(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """`tensor` on `device`; from host memory to a GPU without waiting for what the GPU does."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def token_count(example: Example, keep_last: bool = True) -> int:
    """How many tokens of a row `example` takes."""
    dropped = 0 if keep_last else 1
    return len(example.prompt) + sum(max(len(c) - dropped, 0) for c in example.continuations)


def pack(
    examples: Iterable[Example],
    capacity: int,
    keep_last: bool = True,
    width: int | None = None,
) -> Rows:
    """Put each example into the first row that has room for it (first-fit), in the order given.

    A row holds at most `capacity` tokens and is padded to `width` (default: the longest row in
    use; give it where shapes must not change, as compiled GPU code wants). `keep_last=False`
    leaves out the last token of every continuation: nothing is predicted from it. Keep it in
    training and where the prompt may see it (`full_bidir`). The first token of a continuation is
    predicted from the last of the prompt; without a prompt nothing predicts it, and it is no
    target.

    Raises ValueError when an example is longer than `capacity`, or a row longer than `width`.
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

    # by way of numpy, which reads lists in half the time
    columns += [target_row, target_position, target_id, target_owner]
    tensors = [torch.from_numpy(np.array(column, dtype=np.int64)) for column in columns]
    shaped = [tensor.view(len(members), width) for tensor in tensors[:4]]
    return Rows(*shaped, *tensors[4:], continuations=owners)


def fixed_rows(
    lengths: Sequence[int], capacity: int, widths: int = WIDTHS
) -> Iterator[tuple[list[int], int]]:
    """Rows of few different widths, for kernels compiled for each: (indices of `lengths`, width).

    Longest first, each into the first row that has room for it. A row is as wide as what is in it,
    rounded up to a multiple of `capacity` / `widths`, and no narrower than `NARROWEST`. Raises
    ValueError when a length exceeds `capacity`.
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
    """What each forward of a batch holds: all its rows, or each of its `fixed_rows` alone."""
    if not fixed:
        return [pack(examples, capacity)]
    rows = fixed_rows([token_count(example) for example in examples], capacity, widths)
    return [pack([examples[i] for i in members], width, width=width) for members, width in rows]


def _first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` by row: each goes to the first row with room, found in O(log n).

    `room` is a binary tree over the rows (root 1, leaves from `leaves` on); a node holds the
    largest room left among the rows below it.
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
