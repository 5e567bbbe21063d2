"""Runs many rows in batches of similar lengths, and in smaller batches if memory runs out."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

MIB = 2**20
READ_TOKENS = 16384  # tokens of a forward that only reads, padding included

T = TypeVar("T")


def by_length(lengths: Sequence[int], rows: int, tokens: int | None = None) -> list[list[int]]:
    """Indices into `lengths`, the longest first, in batches.

    A batch has at most `rows` rows and, padded to its longest row, at most `tokens` tokens. A row
    that alone has more tokens is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and len(batches[-1]) < rows:
            longest = lengths[batches[-1][0]]
            if tokens is None or longest * (len(batches[-1]) + 1) <= tokens:
                batches[-1].append(i)
                continue
        batches.append([i])
    return batches


def run_in_batches(
    lengths: Sequence[int],
    rows: int,
    run: Callable[[list[int]], Sequence[T]],
    tokens: int | None = None,
) -> list[T]:
    """Call `run` for every batch of `by_length`; return its results in the order of `lengths`.

    If a batch runs out of memory, it is split in half, down to single rows. Raises
    torch.OutOfMemoryError if a single row does not fit.
    """
    found: dict[int, T] = {}
    waiting = by_length(lengths, rows, tokens)
    while waiting:
        part = waiting.pop(0)
        try:
            found |= dict(zip(part, run(part), strict=True))
            continue
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
        free_memory()
        half = len(part) // 2
        waiting[:0] = [part[:half], part[half:]]
        message = f"out of memory with {len(part)} rows: continuing with {half}"
        print(message, file=sys.stderr, flush=True)
    return [found[i] for i in range(len(lengths))]


def free_memory() -> None:
    """Return unreferenced memory to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
