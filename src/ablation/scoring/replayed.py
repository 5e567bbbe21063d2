"""Forwards that a CUDA device replays as graphs.

The kernels of a small model, or of a single decoded token, are so short that a host can need longer
to launch them than the GPU to run them. A CUDA graph launches all at once.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.model.forward import States, last_states
from ablation.model.masks import uses_fixed_rows
from ablation.model.packing import Rows

# So many graphs are kept, because each holds memory. They share one pool of it, and only one
# `Replayed` is in use at a time: where a graph ends, others lose a workspace that is not in a pool.
KEPT = 2
# The number of weights from which a row keeps a GPU busy for longer than its launches take. The
# graph of a larger model would hold much memory for nothing.
LARGE = 10**9
INPUTS = ("input_ids", "doc", "branch", "position_ids")  # the tensors of rows that a forward reads

Result = TypeVar("Result")


class _Captured(NamedTuple, Generic[Result]):
    """A graph, and what its forward returned, whose tensors each replay overwrites."""

    graph: torch.cuda.CUDAGraph
    result: Result


_never_replayed: WeakSet[PreTrainedModel] = WeakSet()


class Replayed(Generic[Result]):
    """Calls forwards of a model on a CUDA device, and replays those whose key returns.

    A forward of a key is called once plainly, then once with every wait for the GPU made an error,
    and then captured. A model whose forward waits, for the experts that its tokens choose for
    example, cannot be captured, and is called plainly from then on.

    doing: what the forwards do, for the message about such a model.
    """

    def __init__(self, model: PreTrainedModel, doing: str) -> None:
        self.model, self.doing = model, doing
        self._seen: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, _Captured[Result]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._plain = model in _never_replayed  # whether all forwards are called plainly

    def __call__(self, key: Hashable, forward: Callable[[], Result]) -> Result:
        """The result of `forward`, whose tensors may be overwritten by the next call.

        key: forwards with equal keys read the same tensors and launch the same kernels.
        """
        with torch.cuda.device(self.model.device):  # a graph is captured on the current device
            return self._called(key, forward)

    def clear(self) -> None:
        """Forget all forwards; `torch.cuda.empty_cache` then gives their memory back."""
        self._seen.clear()
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()  # the old one may still hold a block

    def _called(self, key: Hashable, forward: Callable[[], Result]) -> Result:
        self._seen[key] += 1
        if self._plain or self._seen[key] == 1:
            return forward()
        if self._seen[key] == 2:
            return self._tried(forward)
        captured = self._graphs.get(key) or self._captured(key, forward)
        if captured is None:
            return forward()
        captured.graph.replay()
        return captured.result

    def _tried(self, forward: Callable[[], Result]) -> Result:
        """A plain call that shows whether the forward waits for the GPU.

        A capture would show it too, but one that fails leaves its memory and stream behind.
        """
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._give_up(error)
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return forward()

    def _captured(self, key: Hashable, forward: Callable[[], Result]) -> _Captured[Result] | None:
        """Record a forward; None if that cannot be done."""
        while len(self._graphs) >= KEPT:
            del self._graphs[next(iter(self._graphs))]
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = forward()
        except RuntimeError as error:
            self._give_up(error)
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails stays on its own
        if self._plain:
            torch.cuda.empty_cache()
            return None
        self._graphs[key] = _Captured(graph, result)
        return self._graphs[key]

    def _give_up(self, error: RuntimeError) -> None:
        """Call forwards plainly from now on, and say so."""
        self._plain = True
        if not isinstance(error, torch.OutOfMemoryError):  # another time memory may do for a graph
            _never_replayed.add(self.model)
        self._graphs.clear()
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        print(f"{self.doing} without CUDA graphs: {reason}", file=sys.stderr)


class ReplayedStates:
    """`last_states`, replayed for a small model whose rows have few shapes.

    The weights of the model must stay where they are meanwhile.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        one_device = {weight.device for weight in model.parameters()} == {model.device}
        on_gpu = model.device.type == "cuda" and one_device
        fits = on_gpu and uses_fixed_rows(model) and model.num_parameters() < LARGE
        self._replayed: Replayed[States] | None = Replayed(model, "scoring") if fits else None
        self._held: dict[torch.Size, dict[str, Tensor]] = {}

    def __call__(self, rows: Rows, mask: str) -> States:
        """`last_states` of `rows` in host memory; the next call may overwrite the states."""
        model = self.model
        if self._replayed is None:
            return last_states(model, rows.to(model.device), mask)
        shape = rows.input_ids.shape
        if shape not in self._held:
            self._held[shape] = {
                name: torch.empty_like(getattr(rows, name), device=model.device) for name in INPUTS
            }
        for name, tensor in self._held[shape].items():
            tensor.copy_(getattr(rows, name).pin_memory(), non_blocking=True)
        held: dict[str, Any] = dict(self._held[shape])
        fixed = replace(rows, **held)
        return self._replayed((mask, shape), lambda: last_states(model, fixed, mask))

    def clear(self) -> None:
        """Forget all graphs; `torch.cuda.empty_cache` then gives their memory back."""
        self._held.clear()
        if self._replayed is not None:
            self._replayed.clear()
