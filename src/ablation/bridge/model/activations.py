"""Computes what the frozen models give once for every question, so that it can be cached.

Source activations are the source's hidden states of a question. Teacher log-probabilities are those
of the target when it reads the question as text. Both models are frozen, so neither changes during
a training; without a cache every step would compute both again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.bridge.data.prompts import Question
from ablation.bridge.model.answer_logits import answer_logits
from ablation.bridge.model.batches import Batch, make_batch
from ablation.bridge.model.embeddings import embed, input_embeddings
from ablation.bridge.model.forwards import READ_TOKENS, run_in_batches
from ablation.bridge.model.pair import FrozenModel
from ablation.bridge.model.ragged import Ragged, ragged
from ablation.vocabulary.bridge import SOFT_ONLY


@torch.no_grad()
def source_activations(
    source: FrozenModel, texts: Sequence[str], layer: int, batch_size: int
) -> Ragged:
    """Hidden states [tokens, width] of each text after `layer`.

    Layer 0 is the embeddings, and -1 is the last layer, after its norm. Raises ValueError for a
    layer that the model does not have.
    """
    model, encoder = source
    last = model.config.get_text_config().num_hidden_layers
    if not -last - 1 <= layer <= last:
        raise ValueError(f"layer {layer} was requested (bridge.layer), but the last is {last}")
    rows = [encoder.source_row(text) for text in texts]

    def read(chosen: list[int]) -> list[Tensor]:
        batch = make_batch([rows[i] for i in chosen], encoder.pad).to(model.device)
        output = model.get_decoder()(
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            position_ids=batch.positions,
            output_hidden_states=layer != -1,
            use_cache=False,
        )
        hidden = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
        return [row[mask].cpu() for row, mask in zip(hidden, batch.mask, strict=True)]

    return ragged(run_in_batches([len(row.ids) for row in rows], batch_size, read, READ_TOKENS))


def target_logits(model: PreTrainedModel, batch: Batch, soft: Tensor | None, mode: str) -> Tensor:
    """The target's logits [rows, tokens, vocabulary] of a batch, with gradients for `soft`."""
    return model(
        inputs_embeds=embed(batch, soft, input_embeddings(model), mode),
        attention_mask=batch.mask.long(),
        position_ids=batch.positions,
        use_cache=False,
    ).logits


@torch.no_grad()
def teacher_logprobs(
    target: FrozenModel, records: Sequence[Mapping], top: int, batch_size: int
) -> tuple[Ragged, Ragged]:
    """Log-probabilities [answer tokens, top] of the likeliest tokens, and the ids of those tokens.

    The teacher is the target, which reads the whole question as text and then the answer with EOS.
    """
    model, encoder = target
    rows = [
        encoder.text_row(
            Question.of(record),
            encoder.encode_answer(record["answer"], True, record.get("solution", "")),
        )
        for record in records
    ]

    def read(chosen: list[int]) -> list[tuple[Tensor, Tensor]]:
        own = [rows[i] for i in chosen]
        batch = make_batch(own, encoder.pad).to(model.device)
        logits, _ = answer_logits(target_logits(model, batch, None, SOFT_ONLY), batch.labels)
        likely = logits.float().log_softmax(-1).topk(min(top, logits.shape[-1]))
        lengths = [len(row.answer) for row in own]
        ids = likely.indices.to(torch.int32).split(lengths)
        values = likely.values.split(lengths)
        return [(v.cpu(), i.cpu()) for v, i in zip(values, ids, strict=True)]

    lengths = [len(row.ids) + len(row.answer) for row in rows]
    # Logits are much wider than hidden states, so a forward holds half as many tokens.
    found = run_in_batches(lengths, batch_size, read, READ_TOKENS // 2)
    values, ids = zip(*found, strict=True)
    return ragged(values), ragged(ids)
