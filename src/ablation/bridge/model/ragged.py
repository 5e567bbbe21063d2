"""Rows of different lengths: end to end in files, padded in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ablation.provenance.atomic import atomic_path


class Ragged(NamedTuple):
    """Rows end to end: `values` [entries of all rows, ...] and `lengths` [rows]."""

    values: Tensor
    lengths: Tensor

    def rows(self) -> tuple[Tensor, ...]:
        """The rows as views of `values`."""
        return self.values.split(self.lengths.tolist())


def ragged(rows: Iterable[Tensor]) -> Ragged:
    """`rows` end to end."""
    rows = list(rows)
    return Ragged(torch.cat(rows), torch.tensor([len(row) for row in rows]))


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """[rows, longest, ...] and a mask [rows, longest] that is False at padding."""
    mask = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
    return pad_sequence(list(rows), batch_first=True), mask


def save(path: str | Path, parts: dict[str, Ragged]) -> None:
    """Write ragged arrays by name as one safetensors file."""
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        tensors |= {name: part.values.contiguous(), f"{name}.lengths": part.lengths}
    with atomic_path(path) as scratch:
        save_file(tensors, scratch)


def load(folder: str | Path) -> dict[str, tuple[Tensor, ...]]:
    """{name: the rows of all files of a folder, in the order of the file names}.

    Rows are views of memory-mapped files, so rows that no step uses are not read into memory.
    """
    found: dict[str, tuple[Tensor, ...]] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors = load_file(file)
        for name in (n for n in tensors if not n.endswith(".lengths")):
            rows = Ragged(tensors[name], tensors[f"{name}.lengths"]).rows()
            found[name] = found.get(name, ()) + rows
    return found
