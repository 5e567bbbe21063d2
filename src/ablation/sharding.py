"""A model whose float32 weights are shared out among ranks (FSDP2), and what a rank's part is.

Each rank keeps its part of every weight, gradient and average in float32, so that no optimizer
needs copies of its own; a layer's weights are gathered, in the model's dtype, while it computes.
Collective: all ranks call what is here, in one order, and all get the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from ablation.packing import WIDTHS, Example, Rows, fixed_rows, forwards, token_count

SHARDS = "shards"  # folder of a resumable state that ranks wrote together


def ranks() -> int:
    """How many processes train together; 1 where there is no group of them."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def shard(model: PreTrainedModel) -> None:
    """Share the weights of `model` out among the ranks, in place and in float32.

    It goes on computing in the dtype that it has. Embeddings, last norm and head stay gathered
    from the beginning of a forward to the end of its backward pass. Raises ValueError for a weight
    that has too few rows for the ranks.
    """
    policy = MixedPrecisionPolicy(param_dtype=model.dtype, reduce_dtype=torch.float32)
    for name, weight in model.named_parameters():
        if weight.shape[0] < ranks():
            raise ValueError(
                f"{name} has {weight.shape[0]} rows, which {ranks()} ranks cannot share: take "
                "fewer GPUs (hardware.gpu)"
            )
    mesh = init_device_mesh(model.device.type, (ranks(),))
    for part in (*model.get_decoder().layers, model):
        for weight in part.parameters():
            if not isinstance(weight, DTensor):
                weight.data = weight.data.float()
        if part._compiled_call_impl is not None:  # it would take in the gathering
            part._compiled_call_impl = None
            part.forward = torch.compile(part.forward, dynamic=False)
        fully_shard(part, mesh=mesh, mp_policy=policy)
    model.gathered = MethodType(_gathered, model)
    register_fsdp_forward_method(model, "gathered")


def _gathered(model: PreTrainedModel, function: Callable, *arguments: Any) -> Any:
    return function(model, *arguments)


def whole(model: PreTrainedModel, function: Callable, *arguments: Any) -> Any:
    """`function(model, *arguments)`, with the weights there that it computes with."""
    if isinstance(model, FSDPModule):
        return model.gathered(function, *arguments)
    return function(model, *arguments)


# ---- data --------------------------------------------------------------------------------------


def own_forwards(
    examples: Sequence[Example], capacity: int, fixed: bool, widths: int = WIDTHS
) -> list[Rows]:
    """`packing.forwards` of this rank's share of `examples`.

    Every rank makes as many forwards, or some would wait for ever: one that has no more rows
    repeats some without any target.
    """
    if ranks() == 1:
        return forwards(examples, capacity, fixed, widths)
    ordered = sorted(examples, key=token_count)  # shares of like size
    shares = [ordered[first :: ranks()] for first in range(ranks())]

    def count(share: list[Example]) -> int:
        lengths = [token_count(example) for example in share]
        return len(list(fixed_rows(lengths, capacity, widths))) if fixed else min(len(share), 1)

    own = shares[rank()]
    parts = forwards(own, capacity, fixed, widths) if own else []
    idle = _without_targets(forwards(ordered[:1], capacity, fixed, widths)[0])
    return parts + [idle] * (max(map(count, shares)) - len(parts))


def _without_targets(rows: Rows) -> Rows:
    names = ("target_row", "target_position", "target_id", "target_owner")
    return replace(rows, **{name: getattr(rows, name)[:0] for name in names})


def summed(numbers: Sequence[float], device: torch.device) -> list[float]:
    """The sums of `numbers` over all ranks, the same bits on each."""
    if ranks() == 1:
        return list(numbers)
    own = torch.tensor(numbers, dtype=torch.float64, device=device)
    parts = [torch.empty_like(own) for _ in range(ranks())]
    distributed.all_gather(parts, own)
    return torch.stack(parts).sum(0).tolist()


# ---- states ------------------------------------------------------------------------------------


def local(tensor: Tensor) -> Tensor:
    """This rank's part of `tensor`, sharing its memory; `tensor` itself where it is not shared."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_finite(model: PreTrainedModel) -> bool:
    """Whether all weights are finite, on all ranks; every rank has come here then."""
    bad = sum(not bool(local(weight).isfinite().all()) for weight in model.parameters())
    return summed([bad], model.device)[0] == 0


def save_shards(folder: str | Path, model: PreTrainedModel, optimizer: Optimizer) -> None:
    """Write weights and optimizer, each rank its part, as `folder`."""
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }
    checkpoint.save(state, checkpoint_id=folder)


def load_weights(folder: str | Path, model: PreTrainedModel) -> None:
    state = {"model": get_model_state_dict(model)}
    checkpoint.load(state, checkpoint_id=folder)
    set_model_state_dict(model, state["model"])


def load_optimizer(folder: str | Path, model: PreTrainedModel, optimizer: Optimizer) -> None:
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    checkpoint.load(state, checkpoint_id=folder)
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def save_whole(file: str | Path, model: PreTrainedModel) -> None:
    """Write all weights as one file of torch's, in float32; rank 0 does."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    if rank() == 0:
        torch.save(state, file)
