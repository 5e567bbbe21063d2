"""What no single key of a study with a bridge can tell: faults between keys, and with the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablation.layers import Fault, did_you_mean

SHIPPED = Path(__file__).resolve().parents[3] / "resources/micro_bridge"
MODELS, DATA = ("shipped", "pretrain", "random"), ("generated",)  # ours


def faults_of(values: Mapping) -> Iterator[Fault]:
    """What is wrong with merged values, which may be of any type."""
    block, hardware = values.get("bridge"), values.get("hardware")
    if not isinstance(block, dict):
        return
    hardware = hardware if isinstance(hardware, dict) else {}
    gpus = hardware.get("gpu")
    if isinstance(gpus, int) and gpus > 1:
        yield Fault(
            ("hardware", "gpu"),
            f"{gpus} found, but one process trains a cell, on one GPU: others would be paid for "
            "and idle; say 1, and run jobs side by side",
        )
    if hardware.get("compile"):
        yield Fault(
            ("hardware", "compile"),
            "true found, but a bridge is not compiled: it generates at ever other widths, each of "
            "which would be compiled anew; say false",
        )
    pins = values.get("pins")
    yield from _unknown(block, pins if isinstance(pins, Mapping) else {})
    shipped = [role for role in ("source", "target") if block.get(role) == "shipped"]
    yield from _other_world(block.get("world"), shipped)


def _other_world(world: Any, shipped: list[str]) -> Iterator[Fault]:
    """Shipped models know the names, numbers and splits of one world."""
    for role in shipped:
        manifest = json.loads((SHIPPED / role / "manifest.json").read_text("utf-8"))
        for name, made in manifest["stamp"]["config"]["world"].items():
            found = world.get(name) if isinstance(world, dict) else None
            if isinstance(found, int) and found != made:
                yield Fault(
                    ("bridge", "world", name),
                    f"{found} found, but the shipped {role} was made for {made} and knows no other "
                    f"world: say `{role}: pretrain`",
                )


def repositories(block: Any, pins: Mapping) -> dict[str, str]:
    """{repository of the hub: `model` or `dataset`}; those are named in `pins`."""
    return {n: kind for _, n, kind in _named(block) if isinstance(n, str) and n in pins}


def _named(block: Any) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """(path, name, `model` or `dataset`) of each model and data set that a block names."""
    block = block if isinstance(block, Mapping) else {}
    for role in ("source", "target"):
        yield (role,), block.get(role), "model"
    sets = block.get("data")
    for regime, own in sets.items() if isinstance(sets, Mapping) else ():
        if isinstance(own, Mapping):
            yield ("data", regime, "data"), own.get("data"), "dataset"


def _unknown(block: Mapping, pins: Mapping) -> Iterator[Fault]:
    """Names of what is neither ours, nor a folder, nor named in `pins`."""
    for path, name, kind in _named(block):
        own = MODELS if kind == "model" else DATA
        if isinstance(name, str) and name not in (*own, *pins) and not Path(name).is_dir():
            expected = ", ".join(f"`{word}`" for word in own)
            yield Fault(
                ("bridge", *path),
                f"{name!r} found; {expected}, a folder, or a repository of the hub that is named "
                f"in `pins` was expected{did_you_mean(name, [*own, *pins])}",
            )
