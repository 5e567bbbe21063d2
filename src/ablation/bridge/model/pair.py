"""The two frozen models of a bridge, each with the encoder of its prompts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablation.bridge.model.forwards import free_memory
from ablation.bridge.model.prompt_encoder import PromptEncoder, PromptFormat
from ablation.bridge.model.random_model import is_random, random_model
from ablation.config.study import ComputeSettings
from ablation.model.checkpoints import load_on, read_tokenizer
from ablation.vocabulary.bridge import FORWARD, SWAPPED


class FrozenModel(NamedTuple):
    """A model whose weights are not trained, with the encoder of its prompts."""

    model: PreTrainedModel
    encoder: PromptEncoder


class Pair(NamedTuple):
    """The model that reads for the translator and the model that answers."""

    source: FrozenModel
    target: FrozenModel

    def swapped(self) -> Pair:
        """The same models with their roles exchanged."""
        return Pair(self.target, self.source)


def load_pair(folders: Sequence[str | Path], hardware: ComputeSettings, form: PromptFormat) -> Pair:
    """The source and the target from their folders, in this order, in eval mode."""
    source, target = (load_frozen(folder, hardware, form) for folder in folders)
    return Pair(source, target)


def load_frozen(folder: str | Path, hardware: ComputeSettings, form: PromptFormat) -> FrozenModel:
    """A model and its encoder from a folder, in eval mode; prints the time that loading took."""
    started = time.perf_counter()
    model, tokenizer = _load(folder, hardware)
    seconds = time.perf_counter() - started
    print(f"{os.path.relpath(folder)}: loaded in {seconds:.1f} s", file=sys.stderr, flush=True)
    return FrozenModel(model.requires_grad_(False), PromptEncoder.of(tokenizer, form))


def _load(
    folder: str | Path, hardware: ComputeSettings
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not is_random(folder):
        return load_on(hardware, folder)
    torch.set_num_threads(hardware.threads)
    device = "cuda" if hardware.gpu else "cpu"
    model = random_model(folder, hardware.dtype, hardware.attention, device)
    return model, read_tokenizer(folder)


class AnsweringModels:
    """The model that answers in each direction, with one of them in memory at a time.

    Translators are trained on cached source activations, so the source is not needed.
    """

    def __init__(
        self, folders: Sequence[str | Path], hardware: ComputeSettings, form: PromptFormat
    ) -> None:
        """`folders` are those of the source and of the target."""
        self.folders = {FORWARD: folders[1], SWAPPED: folders[0]}
        self.hardware, self.form = hardware, form
        self.loaded: tuple[str, FrozenModel] | None = None

    def __call__(self, direction: str) -> FrozenModel:
        """The model that answers in `direction`; the other one is removed from memory first."""
        if self.loaded is None or self.loaded[0] != direction:
            self.loaded = None
            free_memory()
            model = load_frozen(self.folders[direction], self.hardware, self.form)
            self.loaded = direction, model
        return self.loaded[1]
