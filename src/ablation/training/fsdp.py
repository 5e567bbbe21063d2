"""Training on several ranks with FSDP2: the weights of a model are shared out among them.

Each rank keeps its part of every gradient and average in float32, and of every weight in float32,
so that no optimizer needs copies of its own, or in the model's dtype for an optimizer that rounds
stochastically. A layer's weights are gathered in the model's dtype while it computes. The functions
are collective: all ranks call them in the same order and get the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
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

from ablation.model.packing import WIDTHS, Example, Rows, fixed_rows, forwards, token_count
from ablation.parallel.collectives import dealt, rank, ranks, sum_over_ranks

SHARDS = "shards"  # the folder of a checkpoint to which all ranks write

GATHERED = "gathered"  # the method of a shared model that calls a function with gathered weights


def shard(model: PreTrainedModel, float32: bool = True, keep_gathered: bool = False) -> None:
    """Share the weights of `model` out among the ranks, in place.

    float32: whether the parts are float32; otherwise they stay in the dtype of the model.
    keep_gathered: whether layers stay gathered until `reduce_next` says otherwise.

    The model still computes in its own dtype, and gradients are summed over ranks and micro-batches
    in float32. Embeddings, last norm and head stay gathered from the beginning of a forward to the
    end of its backward pass. Raises ValueError if a weight has fewer rows than there are ranks, or,
    without `float32`, another dtype than the model.
    """
    policy = MixedPrecisionPolicy(param_dtype=model.dtype, reduce_dtype=torch.float32)
    for name, weight in model.named_parameters():
        if weight.shape[0] < ranks():
            raise ValueError(
                f"{name} has {weight.shape[0]} rows, which {ranks()} ranks cannot share: take "
                "fewer GPUs (hardware.gpu)"
            )
        if not float32 and weight.dtype != model.dtype:
            raise ValueError(
                f"{name} is {weight.dtype} in a model of {model.dtype}, which GPUs cannot share: "
                "take another finetune.optimizer, or one GPU (hardware.gpu)"
            )
    mesh = init_device_mesh(model.device.type, (ranks(),))
    for part in (*model.get_decoder().layers, model):
        for weight in part.parameters():
            if float32 and not isinstance(weight, DTensor):
                weight.data = weight.data.float()
        if part._compiled_call_impl is not None:  # compile the forward without the gathering
            part._compiled_call_impl = None
            part.forward = torch.compile(part.forward, dynamic=False)
        again = False if keep_gathered else None  # None gathers layers, but not the rest, again
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=again)
    if not float32:
        _keep_float32_gradients(model)
    setattr(model, GATHERED, MethodType(_gathered, model))
    register_fsdp_forward_method(model, GATHERED)


def _keep_float32_gradients(model: PreTrainedModel) -> None:
    """Make FSDP2 leave the reduced gradients of bfloat16 weights in float32.

    It would round each sum over ranks to the dtype of the weights, and has no public option.
    """
    for weight in model.parameters():
        weight.grad_dtype = None  # otherwise a gradient must have the dtype of its weight
    model._get_fsdp_state()._lazy_init()  # type: ignore[operator]
    for part in (*model.get_decoder().layers, model):
        group = part._get_fsdp_state()._fsdp_param_group
        group._orig_dtype = torch.float32  # that of the gradients which `foreach_reduce` makes


def reduce_next(model: nn.Module, reduces: bool) -> None:
    """Whether the next backward sums gradients over ranks, and gives back gathered weights.

    Until then each rank adds up whole gradients in float32.
    """
    model.set_requires_gradient_sync(reduces)  # type: ignore[operator]
    model.set_reshard_after_backward(reduces)  # type: ignore[operator]


def _gathered(model: PreTrainedModel, function: Callable, *arguments: Any) -> Any:
    return function(model, *arguments)


def with_whole_weights(model: PreTrainedModel, function: Callable, *arguments: Any) -> Any:
    """`function(model, *arguments)`, for which the weights of `model` are gathered."""
    if isinstance(model, FSDPModule):
        return getattr(model, GATHERED)(function, *arguments)
    return function(model, *arguments)


# ---- data --------------------------------------------------------------------------------------


def rank_forwards(
    examples: Sequence[Example], capacity: int, fixed: bool, widths: int = WIDTHS
) -> list[Rows]:
    """`packing.forwards` of this rank's share of `examples`.

    Every rank must run the same number of forwards, or others would wait for it forever. So a rank
    with fewer rows runs additional ones that have no targets. The fullest row is the last one: its
    backward pass takes longest, and sums over ranks run beside it.
    """
    if ranks() == 1:
        return forwards(examples, capacity, fixed, widths)
    shares = dealt(examples, [token_count(example) for example in examples], ranks())

    def count(share: list[Example]) -> int:
        lengths = [token_count(example) for example in share]
        return len(list(fixed_rows(lengths, capacity, widths))) if fixed else min(len(share), 1)

    own = shares[rank()]
    parts = forwards(own, capacity, fixed, widths) if own else []
    shortest = min(examples, key=token_count)
    idle = _without_targets(forwards([shortest], capacity, fixed, widths)[0])
    return [idle] * (max(map(count, shares)) - len(parts)) + parts[::-1]


def _without_targets(rows: Rows) -> Rows:
    names = ("target_row", "target_position", "target_id", "target_owner")
    return replace(rows, **{name: getattr(rows, name)[:0] for name in names})


# ---- weights and checkpoints -------------------------------------------------------------------


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of `tensor`, in the same memory; `tensor` itself if it is not shared out."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_finite(model: nn.Module) -> bool:
    """Whether all weights are finite on all ranks. Waits until every rank has called it."""
    weights = list(model.parameters())
    bad = sum(not bool(local_part(weight).isfinite().all()) for weight in weights)
    return sum_over_ranks([bad], weights[0].device)[0] == 0


def save_shards(folder: str | Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Write the weights and the optimizer's state as `folder`; each rank writes its part."""
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }
    checkpoint.save(state, checkpoint_id=folder)


def load_weights(folder: str | Path, model: nn.Module) -> None:
    """Load the weights that `save_shards` wrote into `model`."""
    state = {"model": get_model_state_dict(model)}
    checkpoint.load(state, checkpoint_id=folder)
    set_model_state_dict(model, state["model"])


def load_optimizer(folder: str | Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load the optimizer's state that `save_shards` wrote into `optimizer`."""
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    checkpoint.load(state, checkpoint_id=folder)
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def save_whole(file: str | Path, model: nn.Module) -> None:
    """Gather all weights in float32; rank 0 writes them to one file in torch's format."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    if rank() == 0:
        torch.save(state, file)
