"""Greedy generation from embeddings, one loop for every arm, with the cache in hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ablation.bridge.batches import Batch, Row, Words, batch
from ablation.bridge.forwards import in_order
from ablation.bridge.inject import embed
from ablation.bridge.prompts import cut


class Generated(NamedTuple):
    texts: list[str]
    lengths: list[int]  # new tokens of each row, EOS counted
    ended: list[bool]  # whether EOS came; what did not end was cut off at max_new_tokens
    cache: DynamicCache  # of the last batch: what the target held


def generate(
    model: PreTrainedModel,
    words: Words,
    rows: Sequence[Row],
    soft: Sequence[Tensor] | None = None,
    *,
    mode: str = "soft_only",
    max_new_tokens: int,
    batch_size: int,
    ban_eos: int = 0,
) -> Generated:
    """Continue `rows` greedily; `soft`, for each row [K, width], goes in by `mode`.

    A row ends with EOS, or after `max_new_tokens`; text after a stop string is cut off. `ban_eos`
    keeps EOS out of the first so many tokens (the published evaluator's models never ended).
    No gold answer comes in here: there is no argument for one.
    """
    held = DynamicCache()

    def say(chosen: list[int]) -> list[tuple[str, int, bool]]:
        nonlocal held
        held = DynamicCache()  # what the batch before held goes first
        part = batch([rows[at] for at in chosen], words.pad, left=True).to(model.device)
        given = None if soft is None else [soft[at].to(model.device) for at in chosen]
        ids, held = _greedy(model, words, part, given, mode, max_new_tokens, ban_eos)
        return [_said(words, row) for row in ids.tolist()]

    found = in_order([len(row.ids) for row in rows], batch_size, say)
    texts, lengths, ended = map(list, zip(*found, strict=True))
    return Generated(texts, lengths, ended, held)


def _said(words: Words, ids: list[int]) -> tuple[str, int, bool]:
    ended = words.eos in ids
    n = ids.index(words.eos) + 1 if ended else len(ids)
    return cut(words.tokenizer.decode(ids[:n], skip_special_tokens=True)), n, ended


@torch.no_grad()
def _greedy(
    model: PreTrainedModel,
    words: Words,
    part: Batch,
    soft: Sequence[Tensor] | None,
    mode: str,
    max_new_tokens: int,
    ban_eos: int,
) -> tuple[Tensor, DynamicCache]:
    table, cache = model.get_input_embeddings(), DynamicCache()
    if soft is not None and mode == "adapter":
        soft = torch.stack(list(soft))
    embedded, mask = embed(part, soft, table, mode), part.mask
    positions = part.positions
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
            logits[:, words.eos] = -torch.inf
        chosen = torch.where(done, words.eos, logits.argmax(-1))
        new.append(chosen)
        done |= chosen == words.eos
        if done.all():
            break
        embedded = table(chosen)[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        positions = positions[:, -1:] + 1
    return torch.stack(new, 1), cache
