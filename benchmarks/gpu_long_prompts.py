"""Long prompts on one GPU, by this repository and by stock lm-eval; a section of gpu.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import peers
import torch
from gpu_scoring import MASKS, our_scorer
from measuring import free, peak_gib, seconds
from workload import Size, as_ids, make_items, make_model, make_tokenizer

from ablation.model.masks import TakenWindow, take_window, whole_masks
from ablation.vocabulary.masks import CAUSAL

CHOICE_TOKENS = 64  # more than the longest choice of `make_items`
REPEATS = 2


def long_prompts(size: Size) -> dict:
    """Seconds of an item and peak memory over the weights, by length; contestants take turns.

    HFLM scores one choice at a time. The window is on the prefill of `causal`. A contestant whose
    memory does not suffice has null there, and is left out at longer prompts.
    """
    most = max(size.long_prompts) + CHOICE_TOKENS
    lm, model = our_scorer(size, CAUSAL, max_length=most)
    take_window(model, TakenWindow(size.long_window, "prefill"))
    stock = peers.hflm(make_model(size, "sdpa"), make_tokenizer(size), 1, max_length=most)

    def ours(mask: str) -> Callable[[list], object]:
        def score(ids: list) -> object:
            lm.mask = mask
            with whole_masks(model):
                return lm._loglikelihood_tokens(ids)

        return score

    contestants: dict[str, Callable[[list], object]] = {
        "hflm": lambda ids: stock._loglikelihood_tokens(ids, disable_tqdm=True),
        **{mask: ours(mask) for mask in MASKS},
        "window": lambda ids: (setattr(lm, "mask", CAUSAL), lm._loglikelihood_tokens(ids)),
    }
    rows = []
    for length in size.long_prompts:
        ids = as_ids(make_items(size, size.long_items, length - CHOICE_TOKENS))
        spent: dict[str, list[float]] = {name: [] for name in contestants}
        peaks = dict.fromkeys(contestants, 0.0)
        for turn in range(1 + REPEATS):  # the first one compiles, and is not counted
            for name in list(contestants):
                free()
                weights = peak_gib()
                try:
                    taken = seconds(lambda: contestants[name](ids))  # noqa: B023
                except torch.OutOfMemoryError:
                    del contestants[name]
                    continue
                spent[name] += [taken] if turn else []
                peaks[name] = round(peak_gib() - weights, 2)
        for name, times in spent.items():
            fits = name in contestants
            each = round(statistics.median(times) / size.long_items, 4) if fits else None
            peak = peaks[name] if fits else None
            row = {"tokens": length, "scorer": name, "repeats": REPEATS}
            rows.append(row | {"seconds": each, "peak_gib": peak})
    return {"rows": rows, "items": size.long_items, "window": size.long_window}
