"""The two frozen models of a bridge, each with its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel

from ablation import models
from ablation.bridge.batches import Words


class Pair(NamedTuple):
    source: PreTrainedModel
    source_words: Words
    target: PreTrainedModel
    target_words: Words

    def swapped(self) -> Pair:
        """The same models with their places changed."""
        return Pair(self.target, self.target_words, self.source, self.source_words)


def load_pair(folders: Sequence[str | Path], hardware: Mapping, max_tokens: int) -> Pair:
    """Source and target of two folders, in eval mode, no weight of them to be trained."""
    found = []
    for folder in folders:
        model, tokenizer = models.load_on(hardware, folder)
        found += [model.requires_grad_(False), Words(tokenizer, max_tokens)]
    return Pair(*found)
