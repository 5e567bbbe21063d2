"""Measures the seconds and the peak GPU memory of the sections of a job."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ablation.bridge.model.forwards import MIB


class SectionMeter:
    """Seconds and peak GPU memory of sections, for run.json.

    With a `label` each section is also printed when it ends.
    """

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.sections: dict[str, dict] = {}

    @contextmanager
    def section(self, name: str, samples: int) -> Iterator[None]:
        """Measure the body of a `with` statement, which handles `samples` samples."""
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
        """Record a section that was measured elsewhere; `peak` is in MiB, None without a GPU."""
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
