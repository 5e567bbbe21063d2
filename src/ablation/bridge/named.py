"""Models and data sets that a `bridge:` block names: ours, folders, or of the hub. No torch."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

MODELS, DATA = ("shipped", "pretrain", "random"), ("generated",)


def _all(block: Mapping) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """(path, name, `model` or `dataset`) of each that the values of a block name."""
    for role in ("source", "target"):
        yield (role,), block.get(role), "model"
    sets = block.get("data")
    for regime, own in sets.items() if isinstance(sets, Mapping) else ():
        if isinstance(own, Mapping):
            yield ("data", regime, "data"), own.get("data"), "dataset"


def repositories(block: Mapping, pins: Container[str]) -> dict[str, str]:
    """{repository of the hub: `model` or `dataset`}; those are named in `pins`."""
    return {n: kind for _, n, kind in _all(block) if isinstance(n, str) and n in pins}


def unknown(
    block: Mapping, pins: Container[str]
) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """(path, name, our own names) of what is neither ours, nor a folder, nor named in `pins`."""
    for path, name, kind in _all(block):
        own = MODELS if kind == "model" else DATA
        if isinstance(name, str) and name not in (*own, *pins) and not Path(name).is_dir():
            yield path, name, own
