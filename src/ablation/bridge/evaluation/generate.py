"""Greedy generation from embeddings: one loop for every arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from ablation.bridge.data.answers import cut_at_stop
from ablation.bridge.model.batches import Batch, Row, make_batch
from ablation.bridge.model.embeddings import embed, input_embeddings
from ablation.bridge.model.forwards import run_in_batches
from ablation.bridge.model.pair import FrozenModel
from ablation.bridge.model.prompt_encoder import PromptEncoder
from ablation.vocabulary.bridge import SOFT_ONLY


class Generated(NamedTuple):
    """Generated texts, one for each row."""

    texts: list[str]
    lengths: list[int]  # new tokens of each row, EOS included
    ended: list[bool]  # whether EOS was generated; if not, max_new_tokens ended the text
    cache: DynamicCache  # the KV cache of the last batch


def generate(
    frozen: FrozenModel,
    rows: Sequence[Row],
    soft: Sequence[Tensor] | Tensor | None = None,
    *,
    mode: str = SOFT_ONLY,
    max_new_tokens: int,
    batch_size: int,
    ban_eos: int = 0,
) -> Generated:
    """Continue `rows` greedily.

    `soft` has [K, width] for each row, inserted by `mode`. A row ends with EOS or after
    `max_new_tokens`, and the text after a stop string is cut off. EOS cannot be among the first
    `ban_eos` tokens; only the published evaluator needs this. No argument takes a gold answer.
    """
    encoder = frozen.encoder
    cache = DynamicCache()

    def run(chosen: list[int]) -> list[tuple[str, int, bool]]:
        nonlocal cache
        cache = DynamicCache()  # frees the cache of the batch before
        batch = make_batch([rows[i] for i in chosen], encoder.pad, left=True)
        batch = batch.to(frozen.model.device)
        own = None if soft is None else [soft[i].to(frozen.model.device) for i in chosen]
        ids, cache = _generate_ids(frozen, batch, own, mode, max_new_tokens, ban_eos)
        return [_decode(encoder, row) for row in ids.tolist()]

    found = run_in_batches([len(row.ids) for row in rows], batch_size, run)
    return Generated(
        [text for text, _, _ in found],
        [length for _, length, _ in found],
        [ended for _, _, ended in found],
        cache,
    )


def _decode(encoder: PromptEncoder, ids: list[int]) -> tuple[str, int, bool]:
    """The text of new token ids, their number, and whether they end with EOS."""
    ended = encoder.eos in ids
    length = ids.index(encoder.eos) + 1 if ended else len(ids)
    text = encoder.tokenizer.decode(ids[:length], skip_special_tokens=True)
    return cut_at_stop(str(text)), length, ended


@torch.no_grad()
def _generate_ids(
    frozen: FrozenModel,
    batch: Batch,
    soft: Sequence[Tensor] | None,
    mode: str,
    max_new_tokens: int,
    ban_eos: int,
) -> tuple[Tensor, DynamicCache]:
    """New token ids [rows, new tokens], EOS after the end of a row, and the KV cache."""
    model, eos, cache = frozen.model, frozen.encoder.eos, DynamicCache()
    table = input_embeddings(model)
    embedded, mask, positions = embed(batch, soft, table, mode), batch.mask, batch.positions
    done = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    new: list[Tensor] = []
    for step in range(max_new_tokens):
        logits = model(
            inputs_embeds=embedded,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if step < ban_eos:
            logits[:, eos] = -torch.inf
        chosen = torch.where(done, eos, logits.argmax(-1))
        new.append(chosen)
        done |= chosen == eos
        if done.all():
            break
        embedded = table(chosen)[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        positions = positions[:, -1:] + 1
    return torch.stack(new, 1), cache
