"""Log-sum-exp and argmax of rows of logits on a GPU, reading them once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS, WARPS = 1024, 4  # of one block; the fastest of six sizes on an H100


@triton.jit
def _normalizers(logits, stride, width, normalizer, best, COLUMNS: tl.constexpr):
    row = tl.program_id(0)
    lane = tl.arange(0, COLUMNS)
    # For the columns that a lane has read: the largest value, its column, the sum of
    # exp(x - largest).
    top = tl.full([COLUMNS], float("-inf"), tl.float32)
    place = tl.zeros([COLUMNS], tl.int32)
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + lane
        x = tl.load(
            logits + row.to(tl.int64) * stride + column, mask=column < width, other=float("-inf")
        )
        higher = x > top
        place = tl.where(higher, column, place)
        new = tl.where(higher, x, top)
        base = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(top - base) + tl.exp(x - base)  # a NaN logit gives NaN
        top = new
    peak = tl.max(top, 0)
    base = tl.where(peak == float("-inf"), 0.0, peak)
    tl.store(normalizer + row, base + tl.log(tl.sum(total * tl.exp(top - base), 0)))
    tl.store(best + row, tl.min(tl.where(top == peak, place, width), 0))


def normalizers(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and argmax [rows] of float32 `logits` [rows, vocabulary].

    Of equal logits the first is the argmax. The sum is accumulated in one pass and rescaled by each
    new maximum (Milakov and Gimelshein, arXiv 1805.02867).
    """
    normalizer = logits.new_empty(len(logits))
    best = torch.empty(len(logits), dtype=torch.int32, device=logits.device)
    if len(logits):
        _normalizers[(len(logits),)](
            logits, logits.stride(0), logits.shape[1], normalizer, best, COLUMNS, num_warps=WARPS
        )
    return normalizer, best
