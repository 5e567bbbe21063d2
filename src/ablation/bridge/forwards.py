"""What one forward holds: rows of like lengths, fewer of them where memory does not suffice; and
what sections of the work took.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

MIB = 2**20
READ_TOKENS = 16384  # of a forward that reads, padding counted


def by_length(lengths: Sequence[int], rows: int, tokens: int | None = None) -> list[list[int]]:
    """Places in `lengths`, the longest first, in batches of at most `rows`, padded to `tokens`.

    A row that alone has more tokens is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda at: (-lengths[at], at))
    batches: list[list[int]] = []
    for at in order:
        if batches and len(batches[-1]) < rows:
            longest = lengths[batches[-1][0]]
            if tokens is None or longest * (len(batches[-1]) + 1) <= tokens:
                batches[-1].append(at)
                continue
        batches.append([at])
    return batches


def in_order(
    lengths: Sequence[int],
    rows: int,
    run: Callable[[list[int]], Sequence],
    tokens: int | None = None,
) -> list:
    """`run` of every batch of `by_length`, its results in the order of `lengths`.

    Out of memory halves a batch, down to one row; then torch.OutOfMemoryError is raised.
    """
    found: dict[int, object] = {}
    waiting = by_length(lengths, rows, tokens)
    while waiting:
        part = waiting.pop(0)
        try:
            found |= zip(part, run(part), strict=True)
            continue
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
        free()
        half = len(part) // 2
        waiting[:0] = [part[:half], part[half:]]
        print(f"out of memory with {len(part)} rows, now {half}", file=sys.stderr, flush=True)
    return [found[at] for at in range(len(lengths))]


def free() -> None:
    """Give what nobody refers to back to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Meter:
    """Seconds and peak GPU memory of sections, each told when it ends and kept for run.json."""

    def __init__(self, label: str = ""):
        self.label, self.sections = label, {}

    @contextmanager
    def section(self, name: str, samples: int) -> Iterator[None]:
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        yield
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        peak = round(torch.cuda.max_memory_allocated() / MIB) if cuda else None
        self.add(name, samples, seconds, peak)

    def add(self, name: str, samples: int, seconds: float, peak: int | None) -> None:
        each = seconds / max(1, samples)
        self.sections[name] = {
            "samples": samples,
            "seconds": round(seconds, 3),
            "seconds_each": round(each, 4),
            "peak_mem_mb": peak,
        }
        if self.label:
            memory = "" if peak is None else f", peak {peak} MiB"
            print(
                f"{self.label}: {name}: {samples} in {seconds:.1f} s, {each:.3f} s each{memory}",
                file=sys.stderr,
                flush=True,
            )
