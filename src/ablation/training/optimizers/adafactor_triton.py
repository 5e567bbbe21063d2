"""Adafactor's update of a matrix on a GPU: it reads the gradient three times, the weight once.

The four functions give the results of those of adafactor_torch.py. Each block of a kernel computes
a tile of ROWS x COLUMNS. Blocks write partial sums, which the next kernel adds up in a fixed order,
so results repeat to the bit. The kernels are compiled for dtypes, not for shapes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 128, 128
WARPS = 8
BLOCKS, SUMS = 1024, 256  # most partial sums, of updates and of rows, that one block adds up
EPS = 1e-30  # added to squared gradients


@triton.jit
def _tile(grad, tile, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The place of tile number `tile` (matrix, block of rows and of columns), and its gradients."""
    across, down = tl.cdiv(columns, COLUMNS), tl.cdiv(rows, ROWS)
    matrix, row_block, column_block = tile // (across * down), tile // across % down, tile % across
    i = row_block * ROWS + tl.arange(0, ROWS)
    j = column_block * COLUMNS + tl.arange(0, COLUMNS)
    # Only the offset of the tile itself needs 64 bits.
    first = (matrix.to(tl.int64) * rows + row_block * ROWS) * columns
    place = tl.arange(0, ROWS)[:, None] * columns + j[None, :]
    mask = (i < rows)[:, None] & (j < columns)[None, :]
    g = tl.load(grad + first + place, mask=mask, other=0.0).to(tl.float32)
    return matrix, row_block, column_block, i, j, first, place, mask, g


@triton.jit
def _factor(
    row, column, row_sums, row_parts, matrix, i, j, rows, columns, all_rows,
    FACTORED: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """The factors of a tile's gradients: [ROWS, COLUMNS], or [ROWS, 1] for a vector."""
    by_row = tl.load(row + matrix * rows + i, mask=i < rows, other=1.0)
    if FACTORED:
        k = tl.arange(0, SUMS)
        parts = tl.load(row_sums + matrix * row_parts + k, mask=k < row_parts, other=0.0)
        by_row = tl.rsqrt(by_row / (tl.sum(parts, 0) / all_rows))
        by_column = tl.load(column + matrix * columns + j, mask=j < columns, other=1.0)
        factor = by_row[:, None] * tl.rsqrt(by_column)[None, :]
    else:
        factor = tl.rsqrt(by_row)[:, None]
    return factor


@triton.jit(do_not_specialize=["rows"])
def _square_sums(
    grad, row_parts, column_parts, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    matrix, row_block, column_block, i, j, first, place, mask, g = _tile(
        grad, tl.program_id(0), rows, columns, ROWS, COLUMNS
    )
    across, down = tl.cdiv(columns, COLUMNS), tl.cdiv(rows, ROWS)
    square = g * g
    row_parts += (matrix * across + column_block) * rows
    column_parts += (matrix * down + row_block) * columns
    tl.store(row_parts + i, tl.sum(square, 1), mask=i < rows)
    tl.store(column_parts + j, tl.sum(square, 0), mask=j < columns)


@triton.jit
def _moved(
    parts, average, scale, share, matrix, block, count, length, divisor,
    EPS: tl.constexpr, PARTS: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    """Move a block of `average` towards the sum of its `count` parts; store and return it."""
    at = block * LENGTH + tl.arange(0, LENGTH)
    total = tl.zeros([LENGTH], tl.float32)
    for start in range(0, count, PARTS):
        part = start + tl.arange(0, PARTS)
        mask = (part < count)[:, None] & (at < length)[None, :]
        place = (matrix * count + part)[:, None] * length + at[None, :]
        total += tl.sum(tl.load(parts + place, mask=mask, other=0.0), 0)
    old = tl.load(average + matrix * length + at, mask=at < length, other=0.0)
    new = old + share * (total * (scale * scale / divisor) + EPS - old)
    tl.store(average + matrix * length + at, new, mask=at < length)
    return tl.where(at < length, new, 0.0)


@triton.jit(do_not_specialize=["all_rows", "row_blocks", "across", "down"])
def _averages(
    row_parts, column_parts, row, column, row_sums, scale, numbers,
    rows, columns, all_rows, row_blocks, across, down,
    EPS: tl.constexpr, PARTS: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    """Move all averages, and store the sum of the row averages of each block."""
    matrix, block = tl.program_id(1), tl.program_id(0)
    scale = tl.load(scale)
    share = tl.load(numbers + 2)
    if block < row_blocks:
        new = _moved(
            row_parts, row, scale, share, matrix, block, across, rows, columns, EPS, PARTS, LENGTH
        )
        tl.store(row_sums + matrix * row_blocks + block, tl.sum(new, 0))
    else:
        _moved(
            column_parts, column, scale, share, matrix, block - row_blocks, down, columns,
            all_rows, EPS, PARTS, LENGTH,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "all_rows", "row_parts", "tiles"])
def _sizes(
    grad, row, column, row_sums, sizes, scale, rows, columns, all_rows, row_parts, tiles,
    FACTORED: tl.constexpr, SUMS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store the sum of squared updates of each block, before the learning rate."""
    scale = tl.load(scale)
    total = tl.zeros([ROWS], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        matrix, row_block, column_block, i, j, first, place, mask, g = _tile(
            grad, tile, rows, columns, ROWS, COLUMNS
        )
        factor = _factor(
            row, column, row_sums, row_parts, matrix, i, j, rows, columns, all_rows, FACTORED, SUMS
        )
        update = scale * g * factor
        total += tl.sum(update * update, 1)
    tl.store(sizes + tl.program_id(0), tl.sum(total, 0))


@triton.jit(do_not_specialize=["rows", "all_rows", "row_parts", "blocks"])
def _apply(
    weight, grad, row, column, row_sums, sizes, scale, numbers, salt,
    rows, columns, all_rows, row_parts, blocks, numel,
    FACTORED: tl.constexpr, SUMS: tl.constexpr, BLOCKS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    matrix, row_block, column_block, i, j, first, place, mask, g = _tile(
        grad, tl.program_id(0), rows, columns, ROWS, COLUMNS
    )
    lr = tl.load(numbers)
    decay = tl.load(numbers + 1)
    clip_threshold = tl.load(numbers + 3)
    k = tl.arange(0, BLOCKS)
    squares = tl.sum(tl.load(sizes + k, mask=k < blocks, other=0.0), 0)
    size = tl.sqrt(squares / numel)
    factor = _factor(
        row, column, row_sums, row_parts, matrix, i, j, rows, columns, all_rows, FACTORED, SUMS
    )
    update = tl.load(scale) * g * factor
    weight += first
    old = tl.load(weight + place, mask=mask, other=0.0).to(tl.float32)
    new = old * (1 - lr * decay) - update * (lr / tl.maximum(size / clip_threshold, 1.0))
    if weight.dtype.element_ty == tl.bfloat16:  # see `rounded` of adafactor_torch.py
        x = (first + tl.load(salt)).to(tl.uint32) + place.to(tl.uint32)
        x = (x ^ (x >> 16)) * 0x85EBCA6B
        x = (x ^ (x >> 13)) * 0xC2B2AE35
        x = x ^ (x >> 16)
        bits = (new.to(tl.uint32, bitcast=True) + (x & 0xFFFF)) & 0xFFFF0000
        new = bits.to(tl.float32, bitcast=True)
    tl.store(weight + place, new.to(weight.dtype.element_ty), mask=mask)


def square_sums(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the squares of `grad` [matrices, rows, columns], by row and by column.

    The results are partial sums: [matrices, parts, rows] and [matrices, parts, columns].
    """
    matrices, rows, columns = grad.shape
    down, across = triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS)
    row_parts = torch.empty(matrices, across, rows, device=grad.device)
    column_parts = torch.empty(matrices, down, columns, device=grad.device)
    grid = (matrices * down * across,)
    with torch.cuda.device_of(grad):
        _square_sums[grid](
            grad, row_parts, column_parts, rows, columns, ROWS, COLUMNS, num_warps=WARPS
        )
    return row_parts, column_parts


def averages(
    row_parts: Tensor,
    column_parts: Tensor,
    averages: list[Tensor],
    scale: Tensor,
    numbers: Tensor,
    all_rows: int,
) -> Tensor:
    """Move `averages` [matrices, rows] and, unless of vectors, [matrices, columns] in place.

    Returns the sums of the row averages, in parts: [matrices, parts].
    """
    matrices, across, rows = row_parts.shape
    down, columns = column_parts.shape[1:]
    length = max(256, triton.next_power_of_2(triton.cdiv(rows, SUMS)))
    row_blocks = triton.cdiv(rows, length)
    column_blocks = triton.cdiv(columns, length) if len(averages) > 1 else 0
    row_sums = torch.empty(matrices, row_blocks, device=row_parts.device)
    with torch.cuda.device_of(row_parts):
        _averages[(row_blocks + column_blocks, matrices)](
            row_parts, column_parts, averages[0], averages[-1], row_sums, scale, numbers,
            rows, columns, all_rows, row_blocks, across, down, EPS, 32, length, num_warps=WARPS,
        )  # fmt: skip
    return row_sums


def sizes(
    grad: Tensor, averages: list[Tensor], row_sums: Tensor, scale: Tensor, all_rows: int
) -> Tensor:
    """The sum of the squares of the update of `grad` [matrices, rows, columns]: [1, parts]."""
    matrices, rows, columns = grad.shape
    tiles = matrices * triton.cdiv(rows, ROWS) * triton.cdiv(columns, COLUMNS)
    blocks = min(tiles, BLOCKS)
    sizes = torch.empty(1, blocks, device=grad.device)
    with torch.cuda.device_of(grad):
        _sizes[(blocks,)](
            grad, averages[0], averages[-1], row_sums, sizes, scale,
            rows, columns, all_rows, row_sums.shape[1], tiles,
            len(averages) > 1, SUMS, ROWS, COLUMNS, num_warps=WARPS,
        )  # fmt: skip
    return sizes


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
    """Update `weight` [matrices, rows, columns] in place, a part of a weight of `numel` numbers."""
    matrices, rows, columns = weight.shape
    tiles = matrices * triton.cdiv(rows, ROWS) * triton.cdiv(columns, COLUMNS)
    with torch.cuda.device_of(weight):
        _apply[(tiles,)](
            weight, grad, averages[0], averages[-1], row_sums, sizes, scale, numbers, salt,
            rows, columns, all_rows, row_sums.shape[1], sizes.shape[1], float(numel),
            len(averages) > 1, SUMS, BLOCKS, ROWS, COLUMNS, num_warps=WARPS,
        )  # fmt: skip
