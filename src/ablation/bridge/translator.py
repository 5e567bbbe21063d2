"""From the source's hidden states to K soft tokens at the scale of the target's embeddings.

Two kinds. The *resampler*: learned queries that attend to the source's states, every residual
behind a tanh gate (Flamingo's perceiver, Alayrac et al. 2022, with gates of its own). The
*diffusion* translator: a transformer (DiT, Peebles & Xie 2023) that carries noise to soft tokens
along a rectified flow (Liu et al. 2023), attending to the same states.

Both know where a soft token stands (a query each) and where a source token stands (counted from
the end of the question), and both end in `Scale`: the target's own root mean square, times a
learned factor near one. No LayerNorm: it would take away what a token's direction says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu


class Soft(NamedTuple):
    """What a translator gives: soft tokens, and the raw loss of its flow where it has one."""

    tokens: Tensor  # [batch, K, target width]
    flow: Tensor | None  # scalar


class Translator(nn.Module):
    """What every kind has: `k`, the number of soft tokens, and a device."""

    k: int

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class Scale(nn.Module):
    """Brings every soft token to the root mean square of the target's embeddings, exactly.

    The factor beside it is learned: clamping the scale instead left the published system's soft
    tokens 20 to 80 times too large.
    """

    def __init__(self, rms: float):
        super().__init__()
        self.register_buffer("rms", torch.tensor(float(rms)))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        size = x.float().pow(2).mean(-1, keepdim=True).clamp_min(1e-12).sqrt()
        return (x / size.to(x.dtype)) * (self.rms * self.log_scale.exp())


def embedding_rms(table: Tensor) -> float:
    """The median over the vocabulary of the rows' root mean square."""
    return float(table.detach().float().pow(2).mean(-1).sqrt().median())


class Attention(nn.Module):
    """Multi-head attention of `x` to `memory` (None: itself), `mask` True where it may look."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(memory_width or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None):
        memory = x if memory is None else memory
        query = self._split(self.query(x))
        key, value = map(self._split, self.key_value(memory).chunk(2, -1))
        mask = None if mask is None else mask[:, None, None, :]
        seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Gate(nn.Module):
    """`x + tanh(gate) * change`: what a block adds is opened step by step."""

    def __init__(self, start: float):
        super().__init__()
        self.gate = nn.Parameter(torch.tensor(float(start)))

    def forward(self, x: Tensor, change: Tensor) -> Tensor:
        return x + torch.tanh(self.gate) * change


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(silu(gate) * value)


class Source(nn.Module):
    """The source's states in the translator's width, each with its place from the end."""

    def __init__(self, source_width: int, width: int, place: float):
        super().__init__()
        self.norm, self.project = nn.RMSNorm(source_width), nn.Linear(source_width, width)
        self.place = place

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[batch, tokens, source width], mask [batch, tokens] -> [batch, tokens, width]."""
        from_end = mask.flip(1).cumsum(1).flip(1) - 1
        x = self.project(self.norm(states))
        return x + self.place * sinusoids(from_end.clamp_min(0), x.shape[-1]).to(x.dtype)


def sinusoids(positions: Tensor, width: int, longest: float = 1000.0) -> Tensor:
    """Sines and cosines of `positions` at `width` / 2 wave lengths (Vaswani et al. 2017)."""
    half = width // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, device=positions.device) / half)
    angles = positions[..., None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class ResamplerBlock(nn.Module):
    def __init__(self, width: int, heads: int, gate: float, dropout: float):
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(3))
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.feed = FeedForward(width)
        self.gates = nn.ModuleList(Gate(gate) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        x = self.gates[0](x, self.drop(self.cross(self.norms[0](x), source, mask)))
        x = self.gates[1](x, self.drop(self.own(self.norms[1](x))))
        return self.gates[2](x, self.drop(self.feed(self.norms[2](x))))


class Resampler(Translator):
    """Gated cross-attention: K learned queries read the source's states."""

    def __init__(self, k: int, source_width: int, target_width: int, rms: float, size: Mapping):
        super().__init__()
        width = size["width"]
        self.k = k
        self.queries = nn.Parameter(torch.randn(k, width))
        self.source = Source(source_width, width, size["place"])
        self.blocks = nn.ModuleList(
            ResamplerBlock(width, size["heads"], size["gate"], size["dropout"])
            for _ in range(size["depth"])
        )
        self.head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, target_width))
        self.scale = Scale(rms)

    def forward(self, states: Tensor, mask: Tensor, **_: object) -> Soft:
        """[batch, tokens, source width] and its mask -> K soft tokens a row."""
        source = self.source(states, mask)
        x = self.queries.expand(len(states), -1, -1).to(source.dtype)
        for block in self.blocks:
            x = block(x, source, mask)
        return Soft(self.scale(self.head(x)), None)


class DiffusionBlock(nn.Module):
    """A DiT block: self- and cross-attention and MLP, shifted, scaled and gated by time."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.feed, self.drop = FeedForward(width), nn.Dropout(dropout)
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(width, 9 * width))
        nn.init.zeros_(self.modulate[1].weight)
        with torch.no_grad():  # gates start open: zero ones would cut off the source at first
            self.modulate[1].bias.zero_().view(9, width)[2::3] = 0.5

    def forward(self, x: Tensor, source: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        parts = self.modulate(time)[:, None].chunk(9, -1)
        layers = (lambda y: self.cross(y, source, mask), self.own, self.feed)
        for layer, shift, scale, gate in zip(layers, *(parts[i::3] for i in range(3)), strict=True):
            x = x + gate * self.drop(layer(self.norm(x) * (1 + scale) + shift))
        return x


class Diffusion(Translator):
    """Noise carried to soft tokens by a learned velocity, `steps` Euler steps from t = 0 to 1.

    While training, a flow loss towards `teacher` (target embeddings of the question, never of the
    answer; and which of the K places the question reaches) is returned beside the tokens; both give
    gradients.
    """

    def __init__(self, k: int, source_width: int, target_width: int, rms: float, size: Mapping):
        super().__init__()
        width = size["width"]
        self.k, self.steps, self.rms, self.target_width = k, size["steps"], rms, target_width
        self.places = nn.Parameter(torch.randn(k, width))
        self.source = Source(source_width, width, size["place"])
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(target_width, width)
        self.blocks = nn.ModuleList(
            DiffusionBlock(width, size["heads"], size["dropout"]) for _ in range(size["depth"])
        )
        self.leave = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, target_width))
        self.scale = Scale(rms)

    def velocity(self, x: Tensor, t: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """[batch, K, target width] at times t [batch] -> d x / d t, in units of the embeddings."""
        time = self.time(sinusoids(1000 * t, self.places.shape[-1]).to(x.dtype))
        hidden = self.enter(x) + self.places
        for block in self.blocks:
            hidden = block(hidden, source, mask, time)
        return self.leave(hidden)

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        teacher: tuple[Tensor, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Soft:
        """As `Resampler`; `generator` (on the CPU) fixes the noise of an evaluation."""
        source = self.source(states, mask)
        shape = (len(states), self.k, self.target_width)
        noise = torch.randn(shape, generator=generator, device="cpu").to(source)
        x = noise
        for step in range(self.steps):
            t = torch.full((len(x),), step / self.steps).to(source)
            x = x + self.velocity(x, t, source, mask) / self.steps
        flow = None if teacher is None else self._flow(*teacher, source, mask)
        return Soft(self.scale(x), flow)

    def _flow(self, teacher: Tensor, present: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error of the velocity on the straight way from noise to `teacher`.

        Where nothing is `present`, the way leads nowhere and no velocity is wrong.
        """
        end = (teacher / self.rms).to(source)
        start, t = torch.randn_like(end), torch.rand(len(end)).to(end)
        at = t[:, None, None]
        predicted = self.velocity((1 - at) * start + at * end, t, source, mask)
        return (predicted - (end - start))[present].pow(2).mean()


class Prompt(Translator):
    """K learned tokens that read no source (prompt tuning, Lester et al. 2021): a control."""

    def __init__(self, k: int, source_width: int, target_width: int, rms: float, size: Mapping):
        super().__init__()
        self.k = k
        self.tokens = nn.Parameter(torch.randn(k, target_width))
        self.scale = Scale(rms)

    def forward(self, states: Tensor, mask: Tensor, **_: object) -> Soft:
        return Soft(self.scale(self.tokens).expand(len(states), -1, -1), None)


KINDS = {"resampler": Resampler, "diffusion": Diffusion, "source_free": Prompt}
