"""A KV cache with slots: sequences of different lengths side by side, each replaced when it ends.

A slot holds one sequence from its first column on, so the token at position p stands in column p.
A new sequence overwrites the one before it, and what is left of that lies behind its last token,
where no mask lets anything see it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ablation.model.masks import taken_window


class SlotCache(DynamicCache):
    """Keys and values of all layers, [slots, heads, columns, width] each.

    slots: the number of sequences. columns: the most tokens of one. A layer whose window slides
    keeps its old columns too: the mask hides them.
    """

    def __init__(self, slots: int, columns: int) -> None:
        super().__init__()
        self.slots, self.columns = slots, columns
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._rows = self._position = torch.empty(0, dtype=torch.long)
        self._used = 0

    def place(self, prefilled: DynamicCache, slots: Tensor, padding: Tensor) -> None:
        """Copy the sequences of a prefill, [rows, heads, tokens, width] a layer, into `slots`.

        padding: the number of columns, [rows], in front of each sequence that hold none of it.
        """
        for index, layer in enumerate(prefilled.layers):
            keys: Tensor | None = getattr(layer, "keys", None)
            values: Tensor | None = getattr(layer, "values", None)
            if keys is None or values is None:  # a layer that was taken away
                continue
            for held, found in ((self._keys, keys), (self._values, values)):
                rows, heads, tokens, width = found.shape
                if index not in held:
                    held[index] = found.new_zeros(self.slots, heads, self.columns, width)
                shifted = torch.arange(tokens, device=found.device) + padding[:, None]
                shifted = shifted.clamp(max=tokens - 1)[:, None, :, None]
                shifted = shifted.expand(rows, heads, tokens, width)
                held[index][slots, :, :tokens] = found.gather(2, shifted)

    def advance(self, position: Tensor, used: int) -> None:
        """Let the next forward write one token a slot, at `position` [slots], below `used`."""
        self._rows = torch.arange(self.slots, device=position.device)
        self._position, self._used = position, used

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token a slot; return the first columns of the layer, of which it sees some."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._rows, :, self._position] = key_states[:, :, 0]
        values[self._rows, :, self._position] = value_states[:, :, 0]
        return keys[:, :, : self._used], values[:, :, : self._used]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._used - 1

    def keep(self, slots: Tensor) -> None:
        """Keep these slots alone, in this order, and give the memory of the others back."""
        self.slots = len(slots)
        for held in (self._keys, self._values):
            for index, tensor in held.items():
                held[index] = tensor[slots]


def decoding_mask(
    model: PreTrainedModel, position: Tensor, used: int
) -> Tensor | dict[str, Tensor]:
    """What each slot's next token, at `position` [slots], sees of `used` columns.

    That is itself, and all tokens before it within the windows of its layer, in the form that the
    model takes (`ablation.model.masks.attention_mask`): decoding is causal under every mask.
    """
    config = model.config.get_text_config()
    column = torch.arange(used, device=position.device)
    distance = position[:, None] - column
    visible = distance >= 0
    taken = taken_window(model)
    if taken is not None and taken.when == "everywhere":
        visible = visible & (distance < taken.tokens)

    def ready(window: int | None) -> Tensor:
        seen = visible if window is None else visible & (distance < window)
        seen = seen[:, None, None]
        if config._attn_implementation != "eager":
            return seen
        hidden = torch.finfo(model.dtype).min
        return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill(
            ~seen, hidden
        )

    window = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or ())
    if not types:
        return ready(window)
    if types == {"full_attention"}:
        return ready(None)
    return {kind: ready(window if kind == "sliding_attention" else None) for kind in types}
