"""Models and data sets that a `bridge:` block names: ours, folders, or of the hub. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

MODELS, DATA = ("shipped", "pretrain", "random"), ("generated",)


def _all(block: Any) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """(path, name, `model` or `dataset`) of each that the values of a block name."""
    block = block if isinstance(block, Mapping) else {}
    for role in ("source", "target"):
        yield (role,), block.get(role), "model"
    sets = block.get("data")
    for regime, own in sets.items() if isinstance(sets, Mapping) else ():
        if isinstance(own, Mapping):
            yield ("data", regime, "data"), own.get("data"), "dataset"


def repositories(block: Any, pins: Mapping) -> dict[str, str]:
    """{repository of the hub: `model` or `dataset`}; those are named in `pins`."""
    return {n: kind for _, n, kind in _all(block) if isinstance(n, str) and n in pins}


def faults(block: Any, pins: Mapping) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, what is wrong) of each that is neither ours, nor a folder, nor named in `pins`."""
    for path, name, kind in _all(block):
        own = MODELS if kind == "model" else DATA
        if not isinstance(name, str) or name in (*own, *pins) or Path(name).is_dir():
            continue
        near = get_close_matches(name, [*own, *pins], n=1)
        hint = f", did you mean `{near[0]}`?" if near else ""
        expected = ", ".join(f"`{word}`" for word in own)
        yield (
            ("bridge", *path),
            f"{name!r} found; {expected}, a folder, or a repository of the hub that is named in "
            f"`pins` was expected{hint}",
        )
