"""Problems of a `bridge:` block that involve several keys, or files on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablation.config.merging import ConfigProblem, did_you_mean
from ablation.provenance.code_hash import ROOT

SHIPPED = ROOT / "resources/micro_bridge"
# Values of `source`, `target` and `data` that name no folder and no repository.
MODELS, DATA = ("shipped", "pretrain", "random"), ("generated",)


def find_problems(values: Mapping) -> Iterator[ConfigProblem]:
    """The problems of merged values, which may have any type."""
    block, hardware = values.get("bridge"), values.get("hardware")
    if not isinstance(block, dict):
        return
    hardware = hardware if isinstance(hardware, dict) else {}
    gpus = hardware.get("gpu")
    if isinstance(gpus, int) and gpus > 1:
        yield ConfigProblem(
            ("hardware", "gpu"),
            f"{gpus} found, but a cell is trained by one process on one GPU, and further GPUs "
            "would be idle; use 1, and run jobs side by side",
        )
    if hardware.get("compile"):
        yield ConfigProblem(
            ("hardware", "compile"),
            "true found, but a bridge generates at many different widths, each of which would be "
            "compiled again; use false",
        )
    pins = values.get("pins")
    yield from _unknown(block, pins if isinstance(pins, Mapping) else {})
    shipped = [role for role in ("source", "target") if block.get(role) == "shipped"]
    yield from _other_world(block.get("world"), shipped)


def _other_world(world: Any, shipped: list[str]) -> Iterator[ConfigProblem]:
    """Changes of the world with shipped models, which were trained on one world and one split."""
    for role in shipped:
        manifest = json.loads((SHIPPED / role / "manifest.json").read_text("utf-8"))
        for name, made in manifest["fingerprint"]["config"]["world"].items():
            found = world.get(name) if isinstance(world, dict) else None
            if isinstance(found, int) and found != made:
                yield ConfigProblem(
                    ("bridge", "world", name),
                    f"{found} found, but the shipped {role} was made for {made}; "
                    f"`{role}: pretrain` makes one for another world",
                )


def repositories(block: Any, pins: Mapping) -> dict[str, str]:
    """{hub repository that `pins` names: `model` or `dataset`}."""
    return {n: kind for _, n, kind in _named(block) if isinstance(n, str) and n in pins}


def _named(block: Any) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """(path, name, `model` or `dataset`) for each model and data set that a block names."""
    block = block if isinstance(block, Mapping) else {}
    for role in ("source", "target"):
        yield (role,), block.get(role), "model"
    sets = block.get("data")
    for regime, own in sets.items() if isinstance(sets, Mapping) else ():
        if isinstance(own, Mapping):
            yield ("data", regime, "data"), own.get("data"), "dataset"


def _unknown(block: Mapping, pins: Mapping) -> Iterator[ConfigProblem]:
    """Names that are no keyword, no folder, and not in `pins`."""
    for path, name, kind in _named(block):
        own = MODELS if kind == "model" else DATA
        if isinstance(name, str) and name not in (*own, *pins) and not Path(name).is_dir():
            expected = ", ".join(f"`{word}`" for word in own)
            yield ConfigProblem(
                ("bridge", *path),
                f"{name!r} found; {expected}, a folder, or a repository of the hub that is named "
                f"in `pins` was expected{did_you_mean(name, [*own, *pins])}",
            )
