"""The layers that both kinds of translators are made of.

Names of attributes are names of weights in the files of trained translators, so they stay.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu


class Soft(NamedTuple):
    """The output of a translator: soft tokens, and the loss of its flow if it has one."""

    tokens: Tensor  # [batch, K, target width]
    flow: Tensor | None  # scalar


class Translator(nn.Module):
    """The base class of all translators: `k` is the number of soft tokens."""

    k: int

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device


class Scale(nn.Module):
    """Scales every soft token to the root mean square of the target's embeddings.

    A learned factor, which starts at one, is multiplied in. The published system clamped the scale
    instead, and its soft tokens were 20 to 80 times too large.
    """

    rms: Tensor

    def __init__(self, rms: float) -> None:
        super().__init__()
        self.register_buffer("rms", torch.tensor(float(rms)))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        size = x.float().pow(2).mean(-1, keepdim=True).clamp_min(1e-12).sqrt()
        return (x / size.to(x.dtype)) * (self.rms * self.log_scale.exp())


def embedding_rms(table: Tensor) -> float:
    """The median root mean square of the rows of an embedding table [vocabulary, width]."""
    return float(table.detach().float().pow(2).mean(-1).sqrt().median())


class Attention(nn.Module):
    """Multi-head attention of `x` to `memory` (by default to itself) where `mask` is True."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(memory_width or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        memory = x if memory is None else memory
        query = self._split(self.query(x))
        key, value = map(self._split, self.key_value(memory).chunk(2, -1))
        mask = None if mask is None else mask[:, None, None, :]
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Gate(nn.Module):
    """`x + tanh(gate) * change`: training opens or closes what a block adds."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.tensor(float(start)))

    def forward(self, x: Tensor, change: Tensor) -> Tensor:
        return x + torch.tanh(self.gate) * change


class FeedForward(nn.Module):
    """A gated feed-forward block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(silu(gate) * value)


class SourceProjection(nn.Module):
    """Projects source activations to the translator's width and adds their positions.

    Positions count from the end of the question; `place` is the weight of their sinusoids.
    """

    def __init__(self, source_width: int, width: int, place: float) -> None:
        super().__init__()
        self.norm, self.project = nn.RMSNorm(source_width), nn.Linear(source_width, width)
        self.place = place

    def forward(self, activations: Tensor, mask: Tensor) -> Tensor:
        """[batch, tokens, source width], mask [batch, tokens] -> [batch, tokens, width]."""
        from_end = mask.flip(1).cumsum(1).flip(1) - 1
        x = self.project(self.norm(activations))
        return x + self.place * sinusoids(from_end.clamp_min(0), x.shape[-1]).to(x.dtype)


def sinusoids(positions: Tensor, width: int, longest: float = 1000.0) -> Tensor:
    """Sines and cosines of `positions` at `width` / 2 wavelengths (Vaswani et al. 2017)."""
    half = width // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, device=positions.device) / half)
    angles = positions[..., None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], -1)
