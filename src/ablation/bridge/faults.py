"""What no single key of a study with a bridge can tell: faults between keys, and with the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablation.layers import Fault

SHIPPED = Path(__file__).resolve().parents[3] / "resources/micro_bridge"


def bridge_faults(values: Mapping) -> Iterator[Fault]:
    """What is wrong with merged values, which may be of any type."""
    block, hardware = values.get("bridge"), values.get("hardware")
    if not isinstance(block, dict):
        return
    if isinstance(hardware, dict) and hardware.get("compile"):
        yield Fault(
            ("hardware", "compile"),
            "true found, but a bridge is not compiled: it generates at ever other widths, each of "
            "which would be compiled anew; say false",
        )
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
