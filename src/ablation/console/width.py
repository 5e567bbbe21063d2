"""The width of printed tables where the output is not a terminal."""

from __future__ import annotations

FALLBACK_WIDTH = 170  # characters
