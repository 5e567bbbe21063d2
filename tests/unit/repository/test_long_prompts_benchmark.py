"""Promises of `make bench-long`: each contestant scores the same item, and memory is counted."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_contestants_score_one_item_and_the_peak_is_what_it_adds(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from long_prompts import CONTESTANTS, WINDOW, measured

    length = WINDOW + 200  # so that the window leaves something out
    found = {name: measured((name, length)) for name in CONTESTANTS}
    scores = {name: one["loglikelihoods"] for name, one in found.items()}
    assert scores["causal"] == pytest.approx(scores["hflm"], abs=1e-4)
    for name in ("prefill_bidir", "window"):
        assert max(abs(a - b) for a, b in zip(scores[name], scores["causal"], strict=True)) > 1e-3
    assert all(one["processor_seconds"] > 0 for one in found.values())
    logits = length * 32_000 * 4 / 2**30  # of the whole prompt; HFLM takes their logarithms too
    assert logits < found["hflm"]["peak_gib"] < 8 * logits
    assert 0 <= found["causal"]["peak_gib"] < logits
