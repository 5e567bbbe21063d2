"""The forward that decodes one token in each slot; on a CUDA device it is replayed as a graph.

The kernels of a step are small, so that a host can need longer to launch a thousand of them than
the GPU to run them. A CUDA graph launches all at once.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.scoring.generation.slot_cache import SlotCache, decoding_mask

COLUMNS = 256  # on a GPU, steps read a multiple of so many columns; the mask hides the last ones
KEPT = 2  # graphs at a time: each holds memory, and columns that were read long ago seldom return


class _Captured(NamedTuple):
    """A graph, and where it leaves the logits."""

    graph: torch.cuda.CUDAGraph
    logits: Tensor


_never_replayed: WeakSet[PreTrainedModel] = WeakSet()


class DecodingStep:
    """Decodes one token in each slot of a cache.

    A number of columns is read once plainly, then once with every wait for the GPU made an error,
    and then captured. A model whose forward waits, for the experts that its tokens choose for
    example, cannot be captured, and is decoded plainly from then on.
    """

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        self.model, self.cache = model, cache
        self._on_gpu = model.device.type == "cuda"
        self._seen: Counter[int] = Counter()
        self._graphs: dict[int, _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._on_gpu else None
        self._inputs = torch.zeros(2, cache.slots, dtype=torch.long, device=model.device)

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Logits [slots, vocabulary] after each slot's token, which stands at its position.

        The tensor may be overwritten by the next call.
        """
        self._inputs.copy_(torch.tensor([tokens, positions]))
        used = max(positions) + 1
        if not self._on_gpu:
            return self._forward(used)
        # With and without graphs, so that both compute the same.
        columns = min(-(-used // COLUMNS) * COLUMNS, self.cache.columns)
        self._seen[columns] += 1
        if self.model in _never_replayed or self._seen[columns] == 1:
            return self._forward(columns)
        if self._seen[columns] == 2:
            return self._tried(columns)
        captured = self._graphs.get(columns) or self._captured(columns)
        if captured is None:
            return self._forward(columns)
        captured.graph.replay()
        return captured.logits

    def _tried(self, columns: int) -> Tensor:
        """A plain step that shows whether its forward waits for the GPU.

        A capture would show it too, but one that fails leaves its memory and stream behind.
        """
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return self._forward(columns)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._give_up(error)
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return self._forward(columns)

    def _captured(self, columns: int) -> _Captured | None:
        """Record a step; None if that cannot be done."""
        while len(self._graphs) >= KEPT:
            del self._graphs[next(iter(self._graphs))]
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                logits = self._forward(columns)
        except RuntimeError as error:  # too little memory for a graph is one, and not for the step
            self._give_up(error)
            return None
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails stays on its own
        self._graphs[columns] = _Captured(graph, logits)
        return self._graphs[columns]

    def _give_up(self, error: RuntimeError) -> None:
        _never_replayed.add(self.model)
        self._graphs.clear()
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        print(f"decoding without CUDA graphs: {reason}", file=sys.stderr)

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
