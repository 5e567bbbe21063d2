"""Linear layers that add their products in one order, and so give the same bits everywhere.

MKL has the same bits on every processor only with its compatible kernels, which need two and a half
times as long as those for AVX2. oneDNN, held to AVX2, computes each number of a product of few
terms as one chain of fused multiply-adds, in the order of the terms, and every processor rounds
such a chain alike. `order_sums` sees that it does so before it makes use of it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ablation.model.checks.held import OtherInstructions

MOST_TERMS = 128  # of a sum; oneDNN cuts long ones into parts that depend on the processor's caches


def order_sums(model: nn.Module) -> None:
    """Let the float32 linear layers of `model`, on a CPU, add in one order where they can.

    Raises OtherInstructions if oneDNN does not add as it is expected to.
    """
    _require_chains()
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.float32:
            module.__class__ = OrderedLinear


class OrderedLinear(nn.Linear):
    """A linear layer whose sums of at most `MOST_TERMS` terms have one order; others are MKL's.

    Those of the gradient of its weight, over all rows, are always MKL's.
    """

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = _Product.apply(input, self.weight)
        return result if self.bias is None else result + self.bias


class _Product(torch.autograd.Function):
    """states [..., inputs] times the transposed weight [outputs, inputs]."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(states, weight)
        return _product(states, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (states, weight) = gradients, ctx.saved_tensors
        of_states = _product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        rows = gradient.flatten(0, -2).t()
        of_weight = rows @ states.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return of_states, of_weight


def _product(states: Tensor, weight: Tensor) -> Tensor:
    outputs, terms = weight.shape
    # oneDNN has another kernel for vectors, and a slow one for parts of a matrix.
    matrix = weight.is_contiguous() or weight.t().is_contiguous()
    if terms > MOST_TERMS or outputs == 1 or states.numel() <= terms or not matrix:
        return linear(states, weight)
    pointwise = torch.ops.mkldnn._linear_pointwise.default
    return pointwise(states.contiguous(), weight, None, "none", [], "")


@cache
def _require_chains() -> None:
    """Raise OtherInstructions if a product of oneDNN is no chain of fused multiply-adds."""
    generator = torch.Generator().manual_seed(0)
    for rows, outputs, terms in ((40, 65, MOST_TERMS), (3, 8, 64)):
        a, b = (
            torch.randint(-(2**20), 2**20, (n, terms), generator=generator) / 3**12
            for n in (rows, outputs)
        )
        # A product of two float32 is exact in float64.
        exact = a.double()[:, None] * b.double()[None]
        expected = torch.zeros(rows, outputs)
        for term in range(terms):
            expected = (expected.double() + exact[..., term]).float()
        if not torch.equal(_product(a, b), expected):
            raise OtherInstructions(
                "hardware.instructions is set, but oneDNN adds the terms of a product in another "
                "order on this processor than on others. Set hardware.instructions to null: the "
                "last bits of results will differ."
            )
