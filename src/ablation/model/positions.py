"""What limits the rows of a model besides memory: its positions, buffers and rotary factors."""

from __future__ import annotations

import re
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ablation.config.architectures import positions

# The names of windows; beyond `keep_window_size` a model leaves out keys of its own choice.
WINDOW = re.compile(
    r"(^|_)(?<!keep_)(window|chunk)(_size|_len|_length|_tokens)?$|^local_attention$"
)


def most_positions(config: PreTrainedConfig) -> int | None:
    """How many tokens a model reads, or None if its configuration does not say it."""
    return positions(config.to_dict())


def widest_row(model: PreTrainedModel) -> int | None:
    """The widest row that a model computes as it computes one text, or None if every row is.

    Some models have buffers of one entry a position, which are cut to the width of the row, and
    some leave out keys of a row that has more than a number of tokens. Both count in columns.
    """
    config = model.config.get_text_config()
    longest = most_positions(config)
    buffered = {buffer.shape[-1] for buffer in model.buffers() if buffer.dim() > 1}
    blocks = getattr(config, "index_topk_blocks", None), getattr(config, "index_block_size", None)
    limits = [
        longest if longest in buffered else None,
        getattr(config, "keep_window_size", None),
        blocks[0] * blocks[1] if blocks[0] and blocks[1] else None,
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def windows(config: PreTrainedConfig) -> dict[str, int]:
    """{key: tokens} of the windows and chunks that a configuration names, beyond one token."""
    values = config.get_text_config().to_dict()
    return {k: v for k, v in values.items() if WINDOW.search(k) and type(v) is int and v > 1}


def switch_position(config: PreTrainedConfig) -> int | None:
    """The length up to which the short rotary factors of a longrope model are used, or None.

    The longest text of a forward chooses the factors of all its texts.
    """
    text = config.get_text_config()
    rope: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    blocks = [rope, *(block for block in rope.values() if isinstance(block, dict))]
    for block in blocks:
        if block.get("rope_type") == "longrope":
            return block.get("original_max_position_embeddings")
    return None
