"""Measures seconds, rates and peak memory on a GPU, which works asynchronously to the host."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import torch


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(of: Callable[[], int] = torch.cuda.max_memory_allocated) -> float:
    return round(of() / 2**30, 2) if torch.cuda.is_available() else 0.0


def seconds(work: Callable[[], object]) -> float:
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def rate(count: int, work: Callable[[], object], repeats: int = 3) -> float:
    """`count` divided by the median seconds of `repeats` calls, after one call to warm up."""
    work()
    return round(count / statistics.median(seconds(work) for _ in range(repeats)), 2)
