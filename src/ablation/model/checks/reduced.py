"""Compares a base with its stock forward once, on a copy of few layers and short windows.

The copy has random weights in float32 and the widths of the base. It needs the configuration alone,
so it is made where the weights are not, and shows what only texts beyond the windows show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ablation.config.checkpoint_files import refuse_adapter
from ablation.model.checkpoints import possible_attention, read_config
from ablation.model.checks.agreement import LAYOUTS, Agreement, require_agreement
from ablation.model.checks.supported import refuse_unsupported
from ablation.model.positions import windows

SHORT_WINDOW = 8  # tokens
VOCABULARY = 512  # the most rows of the embeddings
MOST_WEIGHTS = 2_000_000_000  # of a copy, 8 GB in float32
# Why a copy may not come about: a configuration that cannot be shortened, or a class that cannot
# compute what is left. The check of each job on the model itself holds nevertheless.
UNBUILDABLE = (
    *(ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError),
    *(AssertionError, StrictDataclassError),
)


def base_agreement(folder: Path) -> tuple[dict[str, Any], Agreement | None]:
    """The verdict on the model of a folder, equal on all machines, and the differences found.

    Reads the configuration only. Raises UnsupportedArchitecture, DiffersFromStock and
    NotTheCheckpoint. If no copy can be made, the verdict says why, and there are no differences.
    """
    refuse_adapter(folder)
    config = read_config(folder)
    refuse_unsupported(config)
    try:
        copy = reduced_model(config, folder)
    except UNBUILDABLE as error:
        reason = f"no copy of few layers ({type(error).__name__}: {error})"
        return {"compared": False, "reason": reason}, None
    agreement = require_agreement(copy)
    text = copy.config.get_text_config()
    verdict = {
        "compared": True,
        "agrees": list(LAYOUTS),
        "layers": text.num_hidden_layers,
        "windows": windows(text),
        "tokens": agreement.tokens,
        "dtype": agreement.dtype,
        "attention": text._attn_implementation,
    }
    return verdict, agreement


def reduced_model(config: PreTrainedConfig, folder: Path) -> PreTrainedModel:
    """A model of random float32 weights, with the text part of `config` in few layers.

    There is at least one layer of each type, and two; windows have SHORT_WINDOW tokens. Raises one
    of UNBUILDABLE if the configuration cannot be shortened, or the copy has too many weights.
    """
    text = config.get_text_config()
    part = text if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING else config
    short = _shortened(part)
    kind = cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[type(short)])
    attention = possible_attention(short, folder, "sdpa")
    with torch.random.fork_rng(), torch.device("meta"):
        model = kind._from_config(short, dtype=torch.float32, attn_implementation=attention)
    weights = sum(weight.numel() for weight in model.parameters())
    if weights > MOST_WEIGHTS:
        raise ValueError(f"it would have {weights:,} weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind._from_config(short, dtype=torch.float32, attn_implementation=attention)
        with torch.no_grad():
            for weight in (w for w in model.parameters() if w.dim() > 1):
                weight.normal_(0, weight.shape[-1] ** -0.5)  # so that attention matters
    return model.eval()


def _shortened(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of `config` with fewer layers and words, and short windows."""
    own = config.attribute_map
    count, words = (own.get(name, name) for name in ("num_hidden_layers", "vocab_size"))
    values = config.to_dict()
    types = values.get("layer_types") or []
    layers = max([2, *(types.index(kind) + 1 for kind in set(types))])
    for name, value in values.items():
        if isinstance(value, list) and len(value) == values[count]:
            values[name] = value[:layers]
    values |= {count: layers, words: min(VOCABULARY, values[words])}
    values |= {name: min(SHORT_WINDOW, tokens) for name, tokens in windows(config).items()}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if not isinstance(values.get(name), int) or values[name] >= values[words]:
            values[name] = None
    values.pop("quantization_config", None)
    return type(config)(**values)
