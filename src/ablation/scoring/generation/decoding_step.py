"""The forward that decodes one token in each slot; on a CUDA device it is replayed as a graph.

The kernels of a step are small, so the host needs longer to launch a thousand of them than the GPU
to run them. A CUDA graph launches all at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.scoring.generation.slot_cache import SlotCache, decoding_mask

COLUMNS = 256  # a graph reads a multiple of so many columns, of which the mask hides the last ones


class _Captured(NamedTuple):
    """A graph, and where it leaves the logits."""

    graph: torch.cuda.CUDAGraph
    logits: Tensor


class DecodingStep:
    """Decodes one token in each slot of a cache.

    Capturing costs a step, so a graph is captured when a number of columns is read for the second
    time. A model whose forward waits for the GPU (experts that are chosen by token) has no graph.
    """

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        self.model, self.cache = model, cache
        self.with_graphs = model.device.type == "cuda"
        self._graphs: dict[int, _Captured | None] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.with_graphs else None
        self._inputs = torch.zeros(2, cache.slots, dtype=torch.long, device=model.device)

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Logits [slots, vocabulary] after each slot's token, which stands at its position.

        The tensor may be overwritten by the next call.
        """
        self._inputs.copy_(torch.tensor([tokens, positions]))
        used = max(positions) + 1
        if not self.with_graphs:
            return self._forward(used)
        columns = min(-(-used // COLUMNS) * COLUMNS, self.cache.columns)
        if columns not in self._graphs:
            self._graphs[columns] = None
            return self._forward(columns)
        captured = self._graphs[columns] or self._capture(columns)
        if captured is None:
            return self._forward(columns)
        captured.graph.replay()
        return captured.logits

    def _capture(self, columns: int) -> _Captured | None:
        """Record a step; None if its forward cannot be recorded."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                logits = self._forward(columns)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.with_graphs = False
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            print(f"decoding without CUDA graphs: {reason}", file=sys.stderr)
            return None
        self._graphs[columns] = _Captured(graph, logits)
        return self._graphs[columns]

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
