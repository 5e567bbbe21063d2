"""What the frozen models say once and for all: source states and the teacher's log-probabilities.

A training step without them would pay two forwards of frozen models; with them it reads rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import LongTensor, Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from ablation.atomic import atomic_path
from ablation.bridge.batches import Row, Words, batch
from ablation.bridge.forwards import READ_TOKENS, in_order
from ablation.bridge.inject import embed
from ablation.bridge.losses import answer_logits


class Ragged(NamedTuple):
    """Rows of different lengths end to end: `values` [all rows' entries, ...]."""

    values: Tensor
    lengths: LongTensor

    def rows(self) -> tuple[Tensor, ...]:
        return self.values.split(self.lengths.tolist())


def ragged(rows: Iterable[Tensor]) -> Ragged:
    rows = list(rows)
    return Ragged(torch.cat(rows), torch.tensor([len(row) for row in rows]))


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """[rows, longest, ...] and the mask [rows, longest] of what is no padding."""
    mask = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
    return pad_sequence(list(rows), batch_first=True), mask


@torch.no_grad()
def source_states(
    model: PreTrainedModel, words: Words, questions: Sequence[str], layer: int, batch_size: int
) -> Ragged:
    """Hidden states [tokens, width] of each question at `layer` (-1: the last, after its norm).

    0 are the embeddings. Raises ValueError for a layer that the model has not.
    """
    last = model.config.get_text_config().num_hidden_layers
    if not -last - 1 <= layer <= last:
        raise ValueError(f"layer {layer} was asked for (bridge.layer), but the last is {last}")
    rows = [words.question(question) for question in questions]

    def read(chosen: list[int]) -> list[Tensor]:
        part = batch([rows[at] for at in chosen], words.pad).to(model.device)
        seen = model.get_decoder()(
            input_ids=part.ids,
            attention_mask=part.mask.long(),
            position_ids=part.positions,
            output_hidden_states=layer != -1,
            use_cache=False,
        )
        states = seen.last_hidden_state if layer == -1 else seen.hidden_states[layer]
        return [s[m].cpu() for s, m in zip(states, part.mask, strict=True)]

    return ragged(in_order([len(row.ids) for row in rows], batch_size, read, READ_TOKENS))


@torch.no_grad()
def target_logits(model: PreTrainedModel, part, soft: Tensor | None, mode: str) -> Tensor:
    return model(
        inputs_embeds=embed(part, soft, model.get_input_embeddings(), mode),
        attention_mask=part.mask.long(),
        position_ids=part.positions,
        use_cache=False,
    ).logits


@torch.no_grad()
def teacher_logprobs(
    model: PreTrainedModel, words: Words, records: Sequence[dict], top: int, batch_size: int
) -> tuple[Ragged, Ragged]:
    """Log-probabilities of the `top` likeliest tokens at each of an answer's (EOS too), and ids.

    The teacher is the target reading the whole question as text, then the answer.
    """
    rows: list[Row] = [
        words.text(r["question"], words.answer(r["answer"], True, r.get("solution", "")))
        for r in records
    ]

    def read(chosen: list[int]) -> list[tuple[Tensor, Tensor]]:
        own = [rows[at] for at in chosen]
        part = batch(own, words.pad).to(model.device)
        logits, _ = answer_logits(target_logits(model, part, None, "soft_only"), part.labels)
        likely = logits.float().log_softmax(-1).topk(min(top, logits.shape[-1]))
        lengths = [len(row.answer) for row in own]
        ids = likely.indices.to(torch.int32).split(lengths)
        return [(v.cpu(), i.cpu()) for v, i in zip(likely.values.split(lengths), ids, strict=True)]

    lengths = [len(row.ids) + len(row.answer) for row in rows]
    found = in_order(lengths, batch_size, read, READ_TOKENS // 2)  # logits are wide
    values, ids = zip(*found, strict=True)
    return ragged(values), ragged(ids)


def save(path: str | Path, **parts: Ragged) -> None:
    """Write ragged arrays by name as one safetensors file."""
    tensors = {}
    for name, part in parts.items():
        tensors |= {name: part.values.contiguous(), f"{name}.lengths": part.lengths}
    with atomic_path(path) as scratch:
        save_file(tensors, scratch)


def load(folder: str | Path) -> dict[str, tuple[Tensor, ...]]:
    """{name: the rows of all files of a folder, in order}.

    Rows are views of mapped files: what no step asks for is never read into memory.
    """
    found: dict[str, tuple[Tensor, ...]] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors = load_file(file)
        for name in (n for n in tensors if not n.endswith(".lengths")):
            rows = Ragged(tensors[name], tensors[f"{name}.lengths"]).rows()
            found[name] = found.get(name, ()) + rows
    return found
