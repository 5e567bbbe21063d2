"""Adafactor's update of a matrix in torch, in four steps; adafactor_triton.py has those of a GPU.

Between the steps ranks that share the rows of a matrix can add up their sums. `grad` and `weight`
are [matrices, rows, columns], and a vector is a matrix of one column. The gradient is `scale` times
`grad`. `numbers` are learning rate, decay, the weight of this step's squares in the averages, and
the threshold for clipping the update. `all_rows` are the rows of the matrix on all ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

SQUARE_EPS = 1e-30  # added to squared gradients, as in transformers' Adafactor


def square_sums(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the squares of `grad`, by row and by column: [matrices, 1, rows or columns]."""
    square = grad.float().square()
    return square.sum(-1)[:, None], square.sum(-2)[:, None]


def averages(
    row_parts: Tensor,
    column_parts: Tensor,
    averages: list[Tensor],
    scale: Tensor,
    numbers: Tensor,
    all_rows: int,
) -> Tensor:
    """Move `averages` [matrices, rows] and, unless of vectors, [matrices, columns] in place.

    Returns the sums of the row averages: [matrices, 1].
    """
    sums, counts = (row_parts, column_parts), (column_parts.shape[-1], all_rows)
    for average, total, count in zip(averages, sums, counts, strict=False):
        mean = total.sum(1) * (scale * scale / count) + SQUARE_EPS
        average.lerp_(mean, numbers[2])
    return averages[0].sum(-1, keepdim=True)


def sizes(
    grad: Tensor, averages: list[Tensor], row_sums: Tensor, scale: Tensor, all_rows: int
) -> Tensor:
    """The sum of the squares of the update of `grad`: [1, 1]."""
    return _update(grad, averages, row_sums, scale, all_rows).square().sum().view(1, 1)


def apply(
    weight: Tensor,
    grad: Tensor,
    averages: list[Tensor],
    row_sums: Tensor,
    sizes: Tensor,
    scale: Tensor,
    numbers: Tensor,
    salt: Tensor,
    all_rows: int,
    numel: int,
) -> None:
    """Update `weight` in place, a part of a weight of `numel` numbers."""
    lr, decay, _, clip_threshold = numbers.unbind()
    update = _update(grad, averages, row_sums, scale, all_rows)
    size = (sizes.sum() / numel).sqrt()
    update *= lr / (size / clip_threshold).clamp(min=1)
    new = weight.float() * (1 - lr * decay) - update
    place = torch.arange(weight.numel(), device=weight.device, dtype=torch.int32)
    weight.copy_(rounded(new, hashed(place + salt[0]).view_as(weight), weight.dtype))


def _update(
    grad: Tensor, averages: list[Tensor], row_sums: Tensor, scale: Tensor, all_rows: int
) -> Tensor:
    """The gradient over its average size, before the learning rate."""
    row, *column = averages
    if not column:
        return scale * grad.float() * row.rsqrt()[..., None]
    by_row = (row / (row_sums.sum(1, keepdim=True) / all_rows)).rsqrt()
    return scale * grad.float() * (by_row[..., None] * column[0].rsqrt()[..., None, :])


def hashed(x: Tensor) -> Tensor:
    """Murmur3's finalizer on int32: all bits of the result depend on all bits of `x`."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387
    return x ^ ((x >> 16) & 0xFFFF)


def rounded(x: Tensor, random: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 `x` in `dtype`; for bfloat16, add the low 16 bits of `random` and truncate."""
    if dtype != torch.bfloat16:
        return x.to(dtype)
    bits = (x.view(torch.int32) + (random & 0xFFFF)) & -65536
    return bits.view(torch.float32).to(dtype)
