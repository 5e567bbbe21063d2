"""Soft tokens among the target's own embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ablation.bridge.batches import Batch


def embed(
    batch: Batch, soft: Tensor | Sequence[Tensor] | None, table: nn.Embedding, mode: str
) -> Tensor:
    """What the target reads: [rows, tokens, width], `soft` [rows, K, width] put in by `mode`.

    soft_only, soft_plus_text: in the places that the batch keeps for them; rows may then differ in
    K, and `soft` is a sequence. Raises ValueError when there are more or fewer than places.
    adapter: added to the first K tokens of the question's own span; all else stays as it is.
    """
    embedded = table(batch.ids)
    if soft is None:
        return embedded
    if mode != "adapter":
        soft = torch.cat(list(soft))
        if len(soft) != (places := int(batch.soft.sum())):
            raise ValueError(f"{len(soft)} soft tokens for {places} places")
        return embedded.masked_scatter(batch.soft[..., None], soft.to(embedded))
    place = batch.span.long().cumsum(1) - 1  # of a token in the question
    inside = batch.span & (place < soft.shape[1])
    chosen = place.clamp(0, soft.shape[1] - 1)
    added = soft.gather(1, chosen[..., None].expand(-1, -1, soft.shape[-1]))
    return embedded + (added * inside[..., None]).to(embedded.dtype)
