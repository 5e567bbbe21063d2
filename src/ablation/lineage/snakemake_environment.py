"""The environment in which this program starts Snakemake."""

from __future__ import annotations

import os
from pathlib import Path

FALLBACK = Path(".snakemake/cache")


def snakemake_environment() -> dict[str, str]:
    """The environment of this process, with a cache folder that can be written.

    Snakemake creates a cache folder when it starts, and fails if the home folder is read-only.
    """
    usual = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    try:
        usual.mkdir(parents=True, exist_ok=True)
        writable = os.access(usual, os.W_OK)
    except OSError:
        writable = False
    return {**os.environ, **({} if writable else {"XDG_CACHE_HOME": str(FALLBACK.resolve())})}
