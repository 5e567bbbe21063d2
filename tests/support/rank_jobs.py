"""Functions that ranks run in tests of their processes. They need no model, so they start fast."""

import fcntl
import os
import signal
from pathlib import Path

import torch
from torch import distributed


def fail_alone():
    """Fail in rank 1; the other ranks wait forever."""
    if distributed.get_rank() == 1:
        raise ZeroDivisionError("one divided by rank 0")
    signal.pause()


def step_rounded(start, gradients, sizes):
    """The bfloat16 weights `start` after steps by `gradients`, shared by groups of each size."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from ablation.training.optimizers.stochastic_adafactor import StochasticAdafactor

    found = []
    for size in sizes:
        shape, names = (distributed.get_world_size() // size, size), ("group", "rank")
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)["rank"]

        def shared(tensor, mesh=mesh):
            return distribute_tensor(tensor, mesh, [Shard(0)])

        weights = [torch.nn.Parameter(shared(weight)) for weight in start]
        optimizer = StochasticAdafactor(weights, lr=1e-2, weight_decay=0.1)
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad_dtype = None
                weight.grad = shared(gradient)
            optimizer.step()
        found.append([weight.detach().full_tensor() for weight in weights])
    return found


def hold(folder):
    """Lock a file of this rank until its process ends."""
    lock = open(Path(folder) / str(distributed.get_rank()), "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    print(os.getpid(), file=lock, flush=True)
    distributed.barrier()
    print("held", flush=True)
    signal.pause()
