"""The two frozen models of a bridge, each with its words."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ablation import models
from ablation.bridge import prompts
from ablation.bridge.batches import Words
from ablation.bridge.forwards import free
from ablation.bridge.random_model import is_random, random_model


class Pair(NamedTuple):
    source: PreTrainedModel
    source_words: Words
    target: PreTrainedModel
    target_words: Words

    def swapped(self) -> Pair:
        """The same models with their places changed."""
        return Pair(self.target, self.target_words, self.source, self.source_words)


def load_pair(folders: Sequence[str | Path], hardware: Mapping, words: Mapping) -> Pair:
    """Source and target of two folders, in eval mode, no weight of them to be trained.

    words: {regime, max_tokens, chat}, what prompts are made of.
    """
    return Pair(*(part for folder in folders for part in load_side(folder, hardware, words)))


def load_side(
    folder: str | Path, hardware: Mapping, words: Mapping
) -> tuple[PreTrainedModel, Words]:
    started = time.perf_counter()
    model, tokenizer = _load(folder, hardware)
    taken = time.perf_counter() - started
    print(f"{os.path.relpath(folder)}: loaded in {taken:.1f} s", file=sys.stderr, flush=True)
    suffix = prompts.suffix(words["regime"])
    made = Words(tokenizer, words["max_tokens"], suffix, words["chat"])
    return model.requires_grad_(False), made


def _load(folder: str | Path, hardware: Mapping) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not is_random(folder):
        return models.load_on(hardware, folder)
    torch.set_num_threads(hardware["threads"])
    device = "cuda" if hardware["gpu"] else "cpu"
    model = random_model(folder, hardware["dtype"], hardware["attention"], device)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


class Answering:
    """The model that answers in each direction, one on the device at a time.

    Source states are cached before translators are trained, so that the other model is not needed.
    """

    def __init__(self, folders: Sequence[str | Path], hardware: Mapping, words: Mapping):
        self.folders = {"forward": folders[1], "swapped": folders[0]}
        self.hardware, self.words = hardware, words
        self.held: tuple[str, Pair] | None = None

    def __call__(self, direction: str) -> Pair:
        """A pair whose target answers in `direction`, and that has no source."""
        if self.held is None or self.held[0] != direction:
            self.held = None
            free()
            own = load_side(self.folders[direction], self.hardware, self.words)
            self.held = direction, Pair(None, None, *own)
        return self.held[1]
