"""Soft tokens among the target's own embeddings."""

from __future__ import annotations

from torch import Tensor, nn

from ablation.bridge.batches import Batch


def embed(batch: Batch, soft: Tensor | None, table: nn.Embedding, mode: str) -> Tensor:
    """What the target reads: [rows, tokens, width], `soft` [rows, K, width] put in by `mode`.

    soft_only, soft_plus_text: in the places that the batch keeps for them. adapter: added to the
    first K tokens of the question's own span; padding and all else stay as they are.
    """
    embedded = table(batch.ids)
    if soft is None:
        return embedded
    if mode != "adapter":
        return embedded.masked_scatter(batch.soft[..., None], soft.to(embedded.dtype))
    place = batch.span.long().cumsum(1) - 1  # of a token in the question
    inside = batch.span & (place < soft.shape[1])
    chosen = place.clamp(0, soft.shape[1] - 1)
    added = soft.gather(1, chosen[..., None].expand(-1, -1, soft.shape[-1]))
    return embedded + (added * inside[..., None]).to(embedded.dtype)
