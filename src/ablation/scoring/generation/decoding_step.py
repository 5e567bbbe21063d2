"""The forward that decodes one token in each slot; on a CUDA device it is replayed as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.scoring.generation.slot_cache import SlotCache, decoding_mask
from ablation.scoring.replayed import Replayed

COLUMNS = 256  # on a GPU, steps read a multiple of so many columns; the mask hides the last ones


class DecodingStep:
    """Decodes one token in each slot of a cache. Steps that read equal columns are replayed."""

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        self.model, self.cache = model, cache
        on_gpu = model.device.type == "cuda"
        self._replayed: Replayed[Tensor] | None = Replayed(model, "decoding") if on_gpu else None
        self._inputs = torch.zeros(2, cache.slots, dtype=torch.long, device=model.device)

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Logits [slots, vocabulary] after each slot's token, which stands at its position.

        The tensor may be overwritten by the next call.
        """
        self._inputs.copy_(torch.tensor([tokens, positions]))
        used = max(positions) + 1
        if self._replayed is None:
            return self._forward(used)
        # With and without graphs, so that both compute the same.
        columns = min(-(-used // COLUMNS) * COLUMNS, self.cache.columns)
        return self._replayed(columns, partial(self._forward, columns))

    def _forward(self, columns: int) -> Tensor:
        tokens, positions = self._inputs
        self.cache.advance(positions, columns)
        return self.model(
            input_ids=tokens[:, None],
            attention_mask=decoding_mask(self.model, positions, columns),
            position_ids=positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
