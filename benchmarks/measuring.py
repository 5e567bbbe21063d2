"""Measures seconds, rates and peak memory, on a GPU that works asynchronously to the host too."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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


class Measured(NamedTuple):
    """{contestant: medians of its seconds on the clock and on the processor; its last answer}."""

    seconds: dict[str, float]
    processor: dict[str, float]
    answers: dict[str, Any]


def interleaved(contestants: Mapping[str, Callable[[], Any]], repeats: int) -> Measured:
    """Run all contestants in turn, `repeats` times: the machine may be doing other things."""
    clock: dict[str, list[float]] = {name: [] for name in contestants}
    processor: dict[str, list[float]] = {name: [] for name in contestants}
    answers = {}
    for repeat in range(repeats):
        for name, contestant in contestants.items():
            start, used = time.perf_counter(), time.process_time()
            answers[name] = contestant()
            clock[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - used)
            taken = f"{clock[name][-1]:.2f} s, {processor[name][-1]:.2f} s of the processor"
            print(f"{repeat + 1}/{repeats} {name}: {taken}", file=sys.stderr)
    medians = [
        {name: statistics.median(taken) for name, taken in of.items()} for of in (clock, processor)
    ]
    return Measured(*medians, answers)
