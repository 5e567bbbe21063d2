"""How long the jobs of each rule took in former runs, kept in Snakemake's own folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

FILE = Path(".snakemake/live_seconds.json")


def read_former() -> dict[str, float]:
    """{rule: seconds a job}; whatever is no such number in the file is left out."""
    found: object = None
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(FILE.read_text("utf-8"))
    if not isinstance(found, dict):
        return {}
    numbers = {k: v for k, v in found.items() if isinstance(v, int | float) and v is not True}
    return {rule: float(v) for rule, v in numbers.items() if 0 <= v < math.inf}


def write_former(seconds: Mapping[str, float]) -> None:
    """Replace the file as a whole; a folder that cannot be written costs only the estimates."""
    scratch = FILE.with_name(f".{FILE.name}.{os.getpid()}")
    with suppress(OSError):
        rounded = {rule: round(value, 3) for rule, value in sorted(seconds.items())}
        scratch.write_text(json.dumps(rounded, indent=1) + "\n", "utf-8")
        os.replace(scratch, FILE)
