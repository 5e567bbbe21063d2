"""The diffusion translator: a transformer (DiT, Peebles & Xie 2023) that turns noise into soft
tokens along a rectified flow (Liu et al. 2023), attending to source activations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablation.bridge.model.translator_layers import (
    Attention,
    FeedForward,
    Scale,
    Soft,
    SourceProjection,
    Translator,
    sinusoids,
)
from ablation.config.bridge_blocks import Translator as TranslatorConfig


class DiffusionBlock(nn.Module):
    """Cross-attention, self-attention and feed-forward, each shifted, scaled and gated by time."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.feed, self.drop = FeedForward(width), nn.Dropout(dropout)
        projection = nn.Linear(width, 9 * width)
        self.modulate = nn.Sequential(nn.SiLU(), projection)
        nn.init.zeros_(projection.weight)
        with torch.no_grad():  # Gates start open, because closed ones would cut off the source.
            projection.bias.zero_().view(9, width)[2::3] = 0.5

    def forward(self, x: Tensor, source: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        parts = self.modulate(time)[:, None].chunk(9, -1)
        layers = (lambda y: self.cross(y, source, mask), self.own, self.feed)
        for layer, shift, scale, gate in zip(layers, *(parts[i::3] for i in range(3)), strict=True):
            x = x + gate * self.drop(layer(self.norm(x) * (1 + scale) + shift))
        return x


class Diffusion(Translator):
    """Carries noise to soft tokens by a learned velocity, in `steps` Euler steps from t = 0 to 1.

    In training, `teacher` is a pair: the target's embeddings of the question (never of the answer)
    for each of the K places, and which places the question reaches. The forward pass then returns
    the loss of the flow towards them too. Both outputs give gradients.
    """

    def __init__(
        self, k: int, source_width: int, target_width: int, rms: float, size: TranslatorConfig
    ) -> None:
        super().__init__()
        width = size.width
        self.k, self.steps, self.rms, self.target_width = k, size.steps, rms, target_width
        self.places = nn.Parameter(torch.randn(k, width))
        self.source = SourceProjection(source_width, width, size.place)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(target_width, width)
        self.blocks = nn.ModuleList(
            DiffusionBlock(width, size.heads, size.dropout) for _ in range(size.depth)
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
        activations: Tensor,
        mask: Tensor,
        teacher: tuple[Tensor, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Soft:
        """As `Resampler`; `generator` (on the CPU) fixes the noise of an evaluation."""
        source = self.source(activations, mask)
        shape = (len(activations), self.k, self.target_width)
        noise = torch.randn(shape, generator=generator, device="cpu").to(source)
        x = noise
        for step in range(self.steps):
            t = torch.full((len(x),), step / self.steps).to(source)
            x = x + self.velocity(x, t, source, mask) / self.steps
        flow = None if teacher is None else self._flow_loss(*teacher, source, mask)
        return Soft(self.scale(x), flow)

    def _flow_loss(self, teacher: Tensor, present: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error of the velocity on the straight line from noise to `teacher`.

        Places that are not `present` have no target, so they are left out.
        """
        end = (teacher / self.rms).to(source)
        start, t = torch.randn_like(end), torch.rand(len(end)).to(end)
        weight = t[:, None, None]
        predicted = self.velocity((1 - weight) * start + weight * end, t, source, mask)
        return (predicted - (end - start))[present].pow(2).mean()
