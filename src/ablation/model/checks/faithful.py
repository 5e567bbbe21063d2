"""Refuses a loaded model that is not the model whose weights the files hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from ablation.config.checkpoint_files import NotTheCheckpoint

# Buffers that older versions of transformers saved and newer ones compute.
_BUFFERS = re.compile(r"(inv_freq|masked_bias|position_ids|attn\.bias|attention\.bias)$")


def refuse_surplus(model: PreTrainedModel, unexpected: Iterable[str], folder: Path) -> None:
    """Raise NotTheCheckpoint if the files hold weights that `model` has no place for."""
    surplus = sorted(name for name in unexpected if not _is_buffer(name, folder))
    if surplus:
        raise NotTheCheckpoint(
            f"{folder}: {type(model).__name__} has no place for {len(surplus)} weights of its "
            f"files ({', '.join(surplus[:3])}{', ...' * (len(surplus) > 3)}), so without them it "
            "would be another model than the checkpoint. Correct config.json (architecture, "
            "layers, biases), or remove these weights if the model is meant to be without them"
        )


def _is_buffer(name: str, folder: Path) -> bool:
    """Whether an unexpected tensor is a buffer: a bias has one dimension, a causal mask four."""
    if not _BUFFERS.search(name):
        return False
    if not name.endswith(".bias") or name.endswith("masked_bias"):
        return True
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, "pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118
                return len(tensors.get_slice(name).get_shape()) != 1
    return False


def refuse_other_ties(model: PreTrainedModel, folder: Path) -> None:
    """Raise NotTheCheckpoint if the configuration ties weights that differ in the files.

    lm-eval ties them whenever it takes a model, so it would score another model than is trained.
    """
    loaded = dict(model.named_parameters(remove_duplicate=False))
    model.tie_weights()
    for name, weight in model.named_parameters(remove_duplicate=False):
        if weight is not loaded[name] and not torch.equal(weight, loaded[name]):
            raise NotTheCheckpoint(
                f"{folder}: config.json ties {name} to another weight (tie_word_embeddings), but "
                "the files hold two different ones, of which scoring would use one and training "
                "both. Set tie_word_embeddings to false in config.json if the files are right"
            )
