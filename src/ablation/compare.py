"""Two files of the same kind: identical, how far apart their numbers are and where, or different.

Numbers are compared in JSON, JSON lines, CSV, parquet and safetensors; anything else only by its
bytes, figures included.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablation.provenance import sha256_file


@dataclass(frozen=True)
class Verdict:
    """`verdict` is identical, within tolerance, or different; `largest` where numbers differ."""

    file: str
    verdict: str
    largest: float = 0.0
    where: str = ""

    def __str__(self) -> str:
        if self.verdict == "identical":
            return f"{self.file}: identical"
        if not self.where:
            return f"{self.file}: {self.verdict}"
        how = (
            f"by up to {self.largest:.3g}, at {self.where}" if self.largest else f"at {self.where}"
        )
        return f"{self.file}: {self.verdict}, {how}"


def compare(old: Path, new: Path, tolerance: float) -> Verdict:
    """How `new` differs from `old`; numbers up to `tolerance` apart (absolute) are within it."""
    name = old.as_posix()
    if not new.is_file():
        return Verdict(name, "different", math.inf, "a file that was not made again")
    if sha256_file(old) == sha256_file(new):
        return Verdict(name, "identical")
    read = READERS.get(old.suffix)
    if read is None:
        return Verdict(name, "different", where="bytes that are no table")
    largest, where = 0.0, ""
    for place, one, other in read(old, new):
        apart = distance(one, other)
        if apart > largest:
            largest, where = apart, f"{place}: {one!r} before, {other!r} now"
    if not where:
        return Verdict(name, "within tolerance", where="how the same values are written")
    verdict = "within tolerance" if largest <= tolerance else "different"
    return Verdict(name, verdict, largest, where)


def distance(one: object, other: object) -> float:
    """|one - other| of numbers (also as text), 0 for equals, infinity for anything else."""
    if one == other:
        return 0.0
    if isinstance(one, bool) or isinstance(other, bool):
        return math.inf
    try:
        first, second = float(one), float(other)
    except (TypeError, ValueError):
        return math.inf
    if math.isnan(first) and math.isnan(second):
        return 0.0
    apart = abs(first - second)
    return math.inf if math.isnan(apart) else apart


Pairs = Iterator[tuple[str, object, object]]  # (place, value before, value now)


def _json(old: Path, new: Path) -> Pairs:
    yield from _values(json.loads(old.read_text()), json.loads(new.read_text()), "")


def _json_lines(old: Path, new: Path) -> Pairs:
    before, now = ([json.loads(x) for x in p.read_text().splitlines() if x] for p in (old, new))
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
    with open(old, newline="") as one, open(new, newline="") as other:
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
            values = (frame[column].iloc[[index]].tolist()[0] for frame in (before, now))
            yield f"row {index}, {column}", *values


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
                both = one.isnan() & other.isnan()  # equal here, though not to torch
                index = apart.masked_fill(both, 0.0).nan_to_num(torch.inf).argmax()
                yield name, one.flatten()[index].item(), other.flatten()[index].item()


READERS = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
