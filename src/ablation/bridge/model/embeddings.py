"""Input embeddings of a model, with soft tokens among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ablation.bridge.model.batches import Batch
from ablation.vocabulary.bridge import ADAPTER


def input_embeddings(model: PreTrainedModel) -> nn.Embedding:
    """The table of a model's token embeddings [vocabulary, width]."""
    return cast(nn.Embedding, model.get_input_embeddings())


def embed(
    batch: Batch, soft: Tensor | Sequence[Tensor] | None, table: nn.Embedding, mode: str
) -> Tensor:
    """The embeddings [rows, tokens, width] of a batch, with the soft tokens inserted by `mode`.

    `soft` is [rows, K, width], or None for text alone. Under `adapter` soft tokens are added to the
    first K tokens of each question. Under every other mode they replace the places that the batch
    has for them; rows may then differ in K, and `soft` is a sequence of [K, width]. Raises
    ValueError if the number of soft tokens differs from the number of places.
    """
    embedded = table(batch.ids)
    if soft is None:
        return embedded
    if mode != ADAPTER:
        vectors = torch.cat(list(soft))
        if len(vectors) != (places := int(batch.soft.sum())):
            raise ValueError(f"{len(vectors)} soft tokens for {places} places")
        return embedded.masked_scatter(batch.soft[..., None], vectors.to(embedded))
    added = soft if isinstance(soft, Tensor) else torch.stack(list(soft))
    k = added.shape[1]
    place = batch.span.long().cumsum(1) - 1  # index of a token in the question
    inside = batch.span & (place < k)
    chosen = place.clamp(0, k - 1)[..., None].expand(-1, -1, added.shape[-1])
    return embedded + (added.gather(1, chosen) * inside[..., None]).to(embedded.dtype)
