"""The resampler: learned queries attend to source activations (Flamingo, Alayrac et al. 2022).

Every residual connection has a tanh gate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablation.bridge.model.translator_layers import (
    Attention,
    FeedForward,
    Gate,
    Scale,
    Soft,
    SourceProjection,
    Translator,
)
from ablation.config.bridge_blocks import Translator as TranslatorConfig


class ResamplerBlock(nn.Module):
    """Cross-attention to the source, self-attention and feed-forward, each behind a gate."""

    def __init__(self, width: int, heads: int, gate: float, dropout: float) -> None:
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
    """K learned queries that read the source activations by gated cross-attention."""

    def __init__(
        self, k: int, source_width: int, target_width: int, rms: float, size: TranslatorConfig
    ) -> None:
        super().__init__()
        width = size.width
        self.k = k
        self.queries = nn.Parameter(torch.randn(k, width))
        self.source = SourceProjection(source_width, width, size.place)
        self.blocks = nn.ModuleList(
            ResamplerBlock(width, size.heads, size.gate, size.dropout) for _ in range(size.depth)
        )
        self.head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, target_width))
        self.scale = Scale(rms)

    def forward(self, activations: Tensor, mask: Tensor, **_: object) -> Soft:
        """[batch, tokens, source width] and its mask [batch, tokens] -> K soft tokens a row."""
        source = self.source(activations, mask)
        x = self.queries.expand(len(activations), -1, -1).to(source.dtype)
        for block in self.blocks:
            x = block(x, source, mask)
        return Soft(self.scale(self.head(x)), None)
