"""Compares two files: they are identical, different, or equal within a tolerance for numbers.

Numbers are compared in JSON, JSON lines, CSV, parquet and safetensors. All other files, such as
figures, are compared by their bytes only.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsFloat

from ablation.provenance.files import sha256_file

IDENTICAL, WITHIN_TOLERANCE, DIFFERENT = "identical", "within tolerance", "different"


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two files.

    outcome: `identical`, `within tolerance` or `different`. largest: the largest difference of
    numbers. where: its place, with both values, or what else differs.
    """

    file: str
    outcome: str
    largest: float = 0.0
    where: str = ""

    def __str__(self) -> str:
        if self.outcome == IDENTICAL:
            return f"{self.file}: {IDENTICAL}"
        if not self.where:
            return f"{self.file}: {self.outcome}"
        how = (
            f"by up to {self.largest:.3g}, at {self.where}" if self.largest else f"at {self.where}"
        )
        return f"{self.file}: {self.outcome}, {how}"


def compare(old: Path, new: Path, tolerance: float) -> Comparison:
    """Compare `new` with `old`; numbers may differ by `tolerance`, an absolute difference."""
    name = old.as_posix()
    if not new.is_file():
        return Comparison(name, DIFFERENT, math.inf, "a file that was not made again")
    if sha256_file(old) == sha256_file(new):
        return Comparison(name, IDENTICAL)
    read = READERS.get(old.suffix)
    if read is None:
        return Comparison(name, DIFFERENT, where="bytes that are no table")
    largest, where = 0.0, ""
    for place, one, other in read(old, new):
        apart = distance(one, other)
        if apart > largest:
            largest, where = apart, f"{place}: {one!r} before, {other!r} now"
    if not where:
        return Comparison(name, WITHIN_TOLERANCE, where="how the same values are written")
    outcome = WITHIN_TOLERANCE if largest <= tolerance else DIFFERENT
    return Comparison(name, outcome, largest, where)


def distance(one: object, other: object) -> float:
    """|one - other| for numbers, also as text; 0 for equal values, infinity for all others."""
    if one == other:
        return 0.0
    first, second = _number(one), _number(other)
    if first is None or second is None:
        return math.inf
    if math.isnan(first) and math.isnan(second):
        return 0.0
    apart = abs(first - second)
    return math.inf if math.isnan(apart) else apart


def _number(value: object) -> float | None:
    """A number, or a text that is one; truth values do not count."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat | str):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


Pairs = Iterator[tuple[str, object, object]]  # (place, value before, value now)


def _json(old: Path, new: Path) -> Pairs:
    yield from _values(json.loads(old.read_text("utf-8")), json.loads(new.read_text("utf-8")), "")


def _json_lines(old: Path, new: Path) -> Pairs:
    before, now = (
        [json.loads(x) for x in p.read_text("utf-8").splitlines() if x] for p in (old, new)
    )
    yield from _values(before, now, "line ")


def _values(old: object, new: object, place: str) -> Pairs:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _values(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list):
        yield f"{place}number of values", len(old), len(new)
        for index, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from _values(one, other, f"{place}[{index}]")
    else:
        yield place, old, new


def _csv(old: Path, new: Path) -> Pairs:
    with (
        open(old, newline="", encoding="utf-8") as one,
        open(new, newline="", encoding="utf-8") as other,
    ):
        before, now = list(csv.DictReader(one)), list(csv.DictReader(other))
    yield "number of rows", len(before), len(now)
    for index, (first, second) in enumerate(zip(before, now, strict=False)):
        for column in {**first, **second}:
            yield f"row {index + 2}, {column}", first.get(column), second.get(column)


def _parquet(old: Path, new: Path) -> Pairs:
    import pandas as pd

    before, now = pd.read_parquet(old), pd.read_parquet(new)
    yield "number of rows", len(before), len(now)
    yield "columns", list(before), list(now)
    if len(before) != len(now):
        return
    for column in [c for c in before if c in now]:
        unequal = (before[column] != now[column]).to_numpy()
        for index in unequal.nonzero()[0]:
            one, other = (frame[column].iloc[[int(index)]].tolist()[0] for frame in (before, now))
            yield f"row {index}, {column}", one, other


def _safetensors(old: Path, new: Path) -> Pairs:
    import torch
    from safetensors import safe_open

    with safe_open(old, "pt") as before, safe_open(new, "pt") as now:
        yield "names of tensors", sorted(before.keys()), sorted(now.keys())
        for name in sorted(set(before.keys()) & set(now.keys())):
            one, other = before.get_tensor(name), now.get_tensor(name)
            if one.shape != other.shape or one.dtype != other.dtype:
                yield name, (one.dtype, one.shape), (other.dtype, other.shape)
            elif not torch.equal(one, other):
                one, other = one.double(), other.double()
                apart = (one - other).abs()
                both = one.isnan() & other.isnan()  # torch.equal takes them as different
                index = apart.masked_fill(both, 0.0).nan_to_num(torch.inf).argmax()
                yield name, one.flatten()[index].item(), other.flatten()[index].item()


READERS = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
