"""What every rank may ask: how many there are, which one it is, and numbers of all of them.

Without a process group there is one rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")


def ranks() -> int:
    """The number of processes that train together; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The index of this process among the ranks, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def sum_over_ranks(numbers: Sequence[float], device: torch.device) -> list[float]:
    """The sums of `numbers` over all ranks, the same bits on each."""
    if ranks() == 1:
        return list(numbers)
    own = torch.tensor(numbers, dtype=torch.float64, device=device)
    parts = [torch.empty_like(own) for _ in range(ranks())]
    distributed.all_gather(parts, own)
    return torch.stack(parts).sum(0).tolist()


def gathered(part: Any) -> list[Any]:
    """The `part` of every rank, by rank; any picklable objects."""
    if ranks() == 1:
        return [part]
    parts: list[Any] = [None] * ranks()
    distributed.all_gather_object(parts, part)
    return parts


# ---- shares of work ------------------------------------------------------------------------------


def dealt(items: Sequence[Item], costs: Sequence[float], count: int) -> list[list[Item]]:
    """`items` in `count` shares, whose sums of `costs` differ by the largest cost at most.

    The dearest go to shares 0, 1, ... and the next ones to ..., 1, 0, and so back and forth. So no
    share gets the dearer item of every round. The numbers of items differ by one at most, and the
    sums of any other cost that rises with `costs`, such as that of attention, are bounded likewise.
    """
    shares: list[list[Item]] = [[] for _ in range(count)]
    for place, index in enumerate(sorted(range(len(items)), key=lambda index: -costs[index])):
        turn, seat = divmod(place, count)
        shares[count - 1 - seat if turn % 2 else seat].append(items[index])
    return shares


def own_share(items: Iterator[Item]) -> Iterator[Item]:
    """Those of `items` that this rank works on: every `ranks()`-th one, from its own number."""
    return (item for place, item in enumerate(items) if place % ranks() == rank())
